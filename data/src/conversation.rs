use lwv_processor::{Message, RgbImage};

use crate::{ImageSource, Origin, Problem, Result};

/// One sample: a conversation with pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The turns, of `system`, `user` and `assistant`; at least one is the assistant's, and none of those is empty.
    pub messages: Vec<Message>,
    /// The pictures, as many as the messages have places for one ([`Content::Image`](lwv_processor::Content::Image)), in their order.
    pub images: Vec<ImageSource>,
    /// Where it stands.
    pub origin: Origin,
}

impl Conversation {
    /// Texts of the assistant's turns.
    pub fn answers(&self) -> impl Iterator<Item = String> {
        self.messages
            .iter()
            .filter(|message| message.role == "assistant")
            .map(Message::said)
    }

    /// Reads and decodes its pictures.
    ///
    /// # Errors
    /// The first one that is missing or does not decode.
    pub fn open_images(&self) -> Result<Vec<RgbImage>> {
        self.each_image(ImageSource::open)
    }

    /// Decodes its pictures one after another and keeps none.
    ///
    /// # Errors
    /// As for [`open_images`](Self::open_images).
    pub fn check_images(&self) -> Result<()> {
        self.each_image(|source| source.open().map(drop)).map(drop)
    }

    /// Widths and heights of its pictures, from their headers alone.
    ///
    /// # Errors
    /// The first one that is missing or whose header cannot be read.
    pub fn image_sizes(&self) -> Result<Vec<(u32, u32)>> {
        self.each_image(ImageSource::dimensions)
    }

    fn each_image<T>(
        &self,
        read: impl Fn(&ImageSource) -> std::result::Result<T, lwv_processor::Error>,
    ) -> Result<Vec<T>> {
        let images = self.images.iter().enumerate();
        images
            .map(|(image, source)| {
                read(source).map_err(|source| Problem::Image { image, source }.at(&self.origin))
            })
            .collect()
    }
}
