use lwv_processor::{Content, Message, Processor, Prompt, decode_image};

use crate::Error;

const PHOTOGRAPHS: [(&str, &[u8]); 3] = [
    ("astronaut.jpg", include_bytes!("../assets/astronaut.jpg")),
    ("coffee.jpg", include_bytes!("../assets/coffee.jpg")),
    ("chelsea.jpg", include_bytes!("../assets/chelsea.jpg")),
];

const TEXT: &str = "Write a travel guide of three sections for a small harbour town: its history, a walk along the \
    quay, and where to eat. Give every section a heading.";

/// Name, images and tokens of each prompt that a report compares: text, and for models that read images one
/// photograph and three of different sizes, with text between.
pub(crate) fn prompts(processor: &Processor) -> Result<Vec<(String, Vec<String>, Prompt)>, Error> {
    let mut prompts = vec![make(processor, "text", &[], vec![Content::Text(TEXT.into())])?];
    if !processor.reads_images() {
        return Ok(prompts);
    }
    let say = |text: &str| Content::Text(text.into());
    prompts.push(make(
        processor,
        "one photograph",
        &[1],
        vec![Content::Image, say("Describe the picture at length.")],
    )?);
    let three = vec![
        say("Compare these pictures: "),
        Content::Image,
        say(" with "),
        Content::Image,
        Content::Image,
        say(" and write a story in which all of them occur."),
    ];
    prompts.push(make(processor, "three photographs", &[0, 1, 2], three)?);
    Ok(prompts)
}

fn make(
    processor: &Processor,
    name: &str,
    photographs: &[usize],
    content: Vec<Content>,
) -> Result<(String, Vec<String>, Prompt), Error> {
    let chosen = photographs.iter().map(|&index| PHOTOGRAPHS[index]);
    let images = chosen
        .clone()
        .map(|(name, bytes)| decode_image(bytes, name))
        .collect::<Result<Vec<_>, _>>()?;
    let prompt = if processor.chat_template().is_some() {
        processor.prompt(
            &[Message {
                role: "user".into(),
                content,
            }],
            &images,
        )?
    } else {
        processor.raw_prompt(TEXT, &[])?
    };
    Ok((
        name.to_owned(),
        chosen.map(|(name, _)| name.to_owned()).collect(),
        prompt,
    ))
}
