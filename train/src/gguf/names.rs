/// The name that Hugging Face's Llama gives a tensor of a GGUF file, `None` if it has no such tensor.
pub(crate) fn hugging_face(name: &str) -> Option<String> {
    let top = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => return layer(name),
    };
    Some(top.to_owned())
}

fn layer(name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.split_once('.')?;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::hugging_face;

    #[test]
    fn names_of_layers_and_ends() {
        assert_eq!(
            hugging_face("blk.3.ffn_up.weight").unwrap(),
            "model.layers.3.mlp.up_proj.weight"
        );
        assert_eq!(hugging_face("output_norm.weight").unwrap(), "model.norm.weight");
        assert_eq!(hugging_face("blk.3.ssm_in.weight"), None);
    }
}
