use std::path::{Path, PathBuf};

use lwv_data::{Dataset, Encoded, Encoder, EncoderSettings};
use lwv_processor::{Patches, Processor};
use sha2::{Digest, Sha256};

use super::failed;
use crate::Error;

const PROSE: &str = include_str!("../../assets/calibration.txt");

/// Tokens of a sample of prose: enough for attention to look far back.
const LENGTH: usize = 512;

/// What the checkpoint reads for calibration.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Token ids.
    pub(crate) ids: Vec<u32>,
    /// Pictures, in the order of their tokens.
    pub(crate) images: Vec<Patches>,
}

/// Prose in the public domain and, for models that read pictures, photographs: at most `tokens` tokens of prose.
///
/// # Errors
/// The tokenizer refuses.
pub(crate) fn default_samples(processor: &Processor, tokens: usize) -> Result<Vec<Sample>, Error> {
    let prose = processor.raw_prompt(PROSE, &[])?.input_ids;
    let prose = &prose[..prose.len().min(tokens)];
    let mut samples: Vec<Sample> = prose
        .chunks(LENGTH)
        .map(|ids| Sample {
            ids: ids.to_vec(),
            images: Vec::new(),
        })
        .collect();
    for (_, _, prompt) in crate::prompts::prompts(processor)? {
        if !prompt.images.is_empty() {
            samples.push(Sample {
                ids: prompt.input_ids,
                images: prompt.images,
            });
        }
    }
    Ok(samples)
}

/// Samples of datasets in any form that training reads, whole conversations, at most `tokens` tokens in all; one that is
/// longer than what is left is cut where it has no pictures and left out where it has.
///
/// # Errors
/// A dataset that cannot be read, or none of whose samples can be used.
pub(crate) fn read_samples(
    processor: Processor,
    paths: &[PathBuf],
    media: Option<&Path>,
    tokens: usize,
) -> Result<Vec<Sample>, Error> {
    let dataset = Dataset::open(paths, media).map_err(failed)?;
    let encoder = Encoder::new(processor, EncoderSettings::default());
    let (mut samples, mut left) = (Vec::new(), tokens);
    for index in 0..dataset.len() {
        if left == 0 {
            break;
        }
        let conversation = dataset.get(index).map_err(failed)?;
        let Encoded::Example(example) = encoder.encode(&conversation).map_err(failed)? else {
            continue;
        };
        let (mut ids, images) = (example.input_ids, example.images);
        if ids.len() > left {
            if !images.is_empty() {
                continue;
            }
            ids.truncate(left);
        }
        left -= ids.len();
        samples.push(Sample { ids, images });
    }
    if samples.is_empty() {
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(failed(format!(
            "no sample of `{}` can be used within {tokens} tokens",
            paths.join("`, `")
        )));
    }
    Ok(samples)
}

/// SHA-256 of what samples hold.
pub(crate) fn digest(samples: &[Sample]) -> String {
    let mut hash = Sha256::new();
    for sample in samples {
        hash.update((sample.ids.len() as u64).to_le_bytes());
        sample.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        for image in &sample.images {
            image
                .grid
                .thw()
                .iter()
                .for_each(|size| hash.update(size.to_le_bytes()));
            image
                .values
                .iter()
                .for_each(|value| hash.update(value.to_le_bytes()));
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
