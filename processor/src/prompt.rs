use std::path::{Path, PathBuf};

use crate::vision::{Cutter, Place, Vision};
use crate::{
    ChatTemplate, Error, ImageProcessor, Message, Patches, Result, RgbImage, TileProcessor, Tokenizer,
};

/// A prompt as a model takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Token ids. Among them, each image has as many image tokens as it has merged patches.
    pub input_ids: Vec<u32>,
    /// The images, in the order of their tokens: pictures, or the tiles of pictures where a model takes those. The tokens of one
    /// follow each other.
    pub images: Vec<Patches>,
}

/// All that turns messages and pictures into a [`Prompt`]: the tokenizer, the chat template and the image processor
/// of a checkpoint or bundle folder.
#[derive(Debug, Clone)]
pub struct Processor {
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    vision: Option<Vision>,
    path: PathBuf,
}

impl Processor {
    /// Reads what `dir` has: `tokenizer.json` must be there; a chat template may be. Pictures are read where
    /// `config.json` describes a vision tower and there is an image processor.
    ///
    /// # Errors
    /// A file is missing or cannot be used, the tokenizer does not know the image token, or the image processor cuts
    /// other patches than the model takes.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::from_dir(dir)?;
        let chat_template = ChatTemplate::find(dir)?;
        let vision = Vision::find(dir, &tokenizer)?;
        Ok(Self {
            tokenizer,
            chat_template,
            vision,
            path: dir.to_owned(),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, where the folder has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// Whether the model reads pictures.
    pub fn reads_images(&self) -> bool {
        self.vision.is_some()
    }

    /// The image processor, where the model reads pictures of any size.
    pub fn image_processor(&self) -> Option<&ImageProcessor> {
        match &self.vision.as_ref()?.cutter {
            Cutter::Grid(processor) => Some(processor),
            Cutter::Tiles(_) => None,
        }
    }

    /// The image processor, to change its limits.
    pub fn image_processor_mut(&mut self) -> Option<&mut ImageProcessor> {
        match &mut self.vision.as_mut()?.cutter {
            Cutter::Grid(processor) => Some(processor),
            Cutter::Tiles(_) => None,
        }
    }

    /// The image processor, where the model reads pictures in tiles.
    pub fn tile_processor(&self) -> Option<&TileProcessor> {
        match &self.vision.as_ref()?.cutter {
            Cutter::Grid(_) => None,
            Cutter::Tiles(processor) => Some(processor),
        }
    }

    /// The token that stands for one merged patch, where the model reads pictures.
    pub fn image_token_id(&self) -> Option<u32> {
        self.vision.as_ref().map(|vision| vision.image_token_id)
    }

    /// The prompt of a conversation, up to where the assistant begins to speak. The n-th [`Content::Image`] of the
    /// messages is the n-th of `images`.
    ///
    /// [`Content::Image`]: crate::Content::Image
    ///
    /// # Errors
    /// No chat template, one that refuses the messages, another number of pictures than of places for one, or a
    /// picture that cannot be sized.
    pub fn prompt(&self, messages: &[Message], images: &[RgbImage]) -> Result<Prompt> {
        let template = self.require_template()?;
        let text = template.render(messages, true)?;
        self.encode(&text, images, self.adds_special_tokens(template, &text))
    }

    /// The prompt of a text as it is, without the chat template, with what the tokenizer puts around a text. The
    /// image token stands where a picture goes.
    ///
    /// # Errors
    /// Another number of pictures than of image tokens in the text, or a picture that cannot be sized.
    pub fn raw_prompt(&self, text: &str, images: &[RgbImage]) -> Result<Prompt> {
        self.encode(text, images, true)
    }

    /// A later part of a conversation, to follow ids that are there already: as
    /// [`raw_prompt`](Self::raw_prompt), but the tokenizer adds nothing.
    ///
    /// # Errors
    /// As for [`raw_prompt`](Self::raw_prompt).
    pub fn raw_continuation(&self, text: &str, images: &[RgbImage]) -> Result<Prompt> {
        self.encode(text, images, false)
    }

    pub(crate) fn require_template(&self) -> Result<&ChatTemplate> {
        self.chat_template.as_ref().ok_or_else(|| Error::NoChatTemplate {
            path: self.path.clone(),
        })
    }

    /// Whether the tokenizer puts something around a rendered conversation. transformers: a tokenizer adds nothing
    /// to one; a processor does, unless it is there.
    pub(crate) fn adds_special_tokens(&self, template: &ChatTemplate, text: &str) -> bool {
        let has_bos = template.bos_token().is_some_and(|token| text.starts_with(token));
        self.vision.is_some() && !has_bos
    }

    fn encode(&self, text: &str, images: &[RgbImage], add_special_tokens: bool) -> Result<Prompt> {
        // Before the pictures are worked on, which takes long.
        self.check_image_count(text, images.len())?;
        let cut = |vision: &Vision| images.iter().map(|image| vision.cutter.process(image)).collect();
        let cut: Result<Vec<_>> = self.vision.as_ref().map_or(Ok(Vec::new()), cut);
        let (images, places): (Vec<Vec<Patches>>, Vec<Place>) = cut?.into_iter().unzip();
        let input_ids = self.token_ids(text, &places, add_special_tokens)?;
        Ok(Prompt {
            input_ids,
            images: images.into_iter().flatten().collect(),
        })
    }

    /// How many places for an image a rendered text has.
    pub(crate) fn image_places(&self, text: &str) -> usize {
        self.vision.as_ref().map_or(0, |vision| vision.places(text))
    }

    pub(crate) fn check_image_count(&self, text: &str, images: usize) -> Result<()> {
        match &self.vision {
            Some(vision) => vision.check_count(text, images),
            None if images > 0 => Err(Error::TextOnly { images }),
            None => Ok(()),
        }
    }

    /// The ids of a text with one image token for each of `places`, in whose stead stands what that picture needs.
    pub(crate) fn token_ids(
        &self,
        text: &str,
        places: &[Place],
        add_special_tokens: bool,
    ) -> Result<Vec<u32>> {
        let Some(vision) = &self.vision else {
            return self.tokenizer.encode(text, add_special_tokens);
        };
        let input_ids = self
            .tokenizer
            .encode(&vision.expand(text, places), add_special_tokens)?;
        vision.check_tokens(&input_ids, places)?;
        Ok(input_ids)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tokenizer::tests::{byte_tokenizer, byte_tokenizer_json};
    use crate::{Content, Grid};

    pub(crate) const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}\
        {% else %}{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
        {% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    const IMAGE_TOKEN: u32 = 262;

    /// Patches of 2×2 pixels, merged by 2, so 4×4 pixels become a token.
    const PREPROCESSOR: &str = r#"{"patch_size": 2, "merge_size": 2, "temporal_patch_size": 2,
        "min_pixels": 16, "max_pixels": 1024, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;

    fn config(patch_size: usize) -> String {
        serde_json::json!({
            "model_type": "qwen2_5_vl", "image_token_id": IMAGE_TOKEN,
            "text_config": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
                "num_key_value_heads": 1, "vocab_size": 300, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
                "max_position_embeddings": 64, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
            "vision_config": {"depth": 1, "hidden_size": 8, "intermediate_size": 16, "num_heads": 1,
                "patch_size": patch_size, "window_size": 16, "out_hidden_size": 8},
        })
        .to_string()
    }

    pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), byte_tokenizer_json()).unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    /// A processor of pictures whose patches are 2×2 pixels, merged by 2, with the template [`CHATML`].
    pub(crate) fn vision_processor() -> Processor {
        let config = config(2);
        let files = [
            ("config.json", config.as_str()),
            ("preprocessor_config.json", PREPROCESSOR),
            ("chat_template.jinja", CHATML),
        ];
        Processor::from_dir(folder(&files).path()).unwrap()
    }

    #[test]
    fn each_image_gets_its_own_number_of_tokens() {
        let processor = vision_processor();
        let message = Message {
            role: "user".into(),
            content: vec![Content::Image, Content::Text("he".into()), Content::Image],
        };
        let prompt = processor
            .prompt(&[message], &[RgbImage::new(8, 4), RgbImage::new(4, 12)])
            .unwrap();
        let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
        assert_eq!(grids, [Grid { t: 1, h: 2, w: 4 }, Grid { t: 1, h: 6, w: 2 }]);
        let text = "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>he<|vision_start|>\
                    <|image_pad|><|image_pad|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(prompt.input_ids, byte_tokenizer().encode(text, false).unwrap());
        assert_eq!(prompt.images[0].values.len(), 8 * 3 * 2 * 2 * 2);
    }

    /// Tiles of 4×4 pixels, of which each 2×2 are a token, at a longest edge of `edge` pixels.
    fn tile_folder(edge: usize, model_tile: usize) -> tempfile::TempDir {
        let config = serde_json::json!({
            "model_type": "smolvlm", "image_token_id": IMAGE_TOKEN, "scale_factor": 2,
            "text_config": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
                "vocab_size": 300, "max_position_embeddings": 64},
            "vision_config": {"hidden_size": 8, "num_attention_heads": 1, "image_size": model_tile, "patch_size": 1},
        });
        let images = serde_json::json!({"image_processor": {"size": {"longest_edge": edge}, "max_image_size": {"longest_edge": 4}}});
        folder(&[
            ("config.json", &config.to_string()),
            ("processor_config.json", &images.to_string()),
        ])
    }

    #[test]
    fn tiles_have_their_places_named() {
        let processor = Processor::from_dir(tile_folder(8, 4).path()).unwrap();
        assert!(processor.reads_images() && processor.image_processor().is_none());
        let token = "<|image_pad|>";
        let prompt = processor
            .raw_prompt(&format!("he{token}"), &[RgbImage::new(20, 10)])
            .unwrap();
        let tile = token.repeat(4);
        let text = format!(
            "he<fake_token_around_image><row_1_col_1>{tile}<fake_token_around_image><row_1_col_2>{tile}\n\
             \n<fake_token_around_image><global-img>{tile}<fake_token_around_image>"
        );
        assert_eq!(prompt.input_ids, byte_tokenizer().encode(&text, false).unwrap());
        assert_eq!(prompt.images.len(), 3);
        let whole = Processor::from_dir(tile_folder(4, 4).path()).unwrap();
        let prompt = whole.raw_prompt(token, &[RgbImage::new(20, 10)]).unwrap();
        let text = format!("<fake_token_around_image><global-img>{tile}<fake_token_around_image>");
        assert_eq!(prompt.input_ids, byte_tokenizer().encode(&text, false).unwrap());
    }

    #[test]
    fn tiles_must_be_what_the_model_takes() {
        let error = Processor::from_dir(tile_folder(8, 8).path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`max_image_size` is `4`") && error.contains("`8`"),
            "{error}"
        );
        let folder = tile_folder(8, 4);
        let path = folder.path().join("preprocessor_config.json");
        std::fs::write(&path, r#"{"size": {"height": 4, "width": 4}}"#).unwrap();
        let error = Processor::from_dir(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("`size`") && error.contains("longest_edge"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_number_of_images_names_both() {
        let processor = vision_processor();
        let error = processor
            .prompt(&[Message::with_images("user", 2, "x")], &[RgbImage::new(8, 4)])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`1` images were given, but the prompt has `2` places for one (`<|image_pad|>`)"
        );
        // An image token that the user typed counts as a place.
        let typed = Message::text("user", "what is <|image_pad|>?");
        assert!(matches!(
            processor.prompt(&[typed], &[]),
            Err(Error::ImageCount {
                images: 0,
                placeholders: 1,
                ..
            })
        ));
    }

    #[test]
    fn threads_can_share_a_processor() {
        fn shared<T: Send + Sync + Clone>() {}
        shared::<Processor>();
    }

    #[test]
    fn a_later_turn_can_be_tokenized_alone() {
        let processor = vision_processor();
        let prompt = processor
            .raw_continuation("t<|image_pad|>", &[RgbImage::new(4, 4)])
            .unwrap();
        assert_eq!(
            prompt.input_ids,
            [byte_tokenizer().token_to_id("t").unwrap(), IMAGE_TOKEN]
        );
    }

    #[test]
    fn a_folder_without_vision_takes_text_only() {
        let folder = folder(&[("chat_template.jinja", CHATML)]);
        let processor = Processor::from_dir(folder.path()).unwrap();
        assert_eq!(processor.image_token_id(), None);
        assert_eq!(processor.raw_prompt("he", &[]).unwrap().input_ids, [256]);
        let error = processor.raw_prompt("he", &[RgbImage::new(4, 4)]).unwrap_err();
        assert!(matches!(error, Error::TextOnly { images: 1 }), "{error}");
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let config_of_3 = config(4);
        let files = [
            ("config.json", config_of_3.as_str()),
            ("preprocessor_config.json", PREPROCESSOR),
        ];
        let error = Processor::from_dir(folder(&files).path())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "`patch_size` is `2` in the image processor, but the model in `config.json` takes `4`"
        );
        let other_token = config(2).replace("262", "9999");
        let files = [
            ("config.json", other_token.as_str()),
            ("preprocessor_config.json", PREPROCESSOR),
        ];
        let error = Processor::from_dir(folder(&files).path())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "token id `9999` (`image_token_id` in `config.json`) is not in the tokenizer's vocabulary"
        );
        let without = folder(&[]);
        let error = Processor::from_dir(without.path())
            .unwrap()
            .prompt(&[], &[])
            .unwrap_err();
        assert!(matches!(error, Error::NoChatTemplate { .. }), "{error}");
    }
}
