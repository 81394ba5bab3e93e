use std::ffi::c_char;

use lwv_processor::{Message, RgbImage};

use crate::argument::{list, text};
use crate::failure::Result;
use crate::image::{images_of, lwv_image};

/// One turn of a conversation: its pictures, then what is said. This structure never changes, since it stands in arrays.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_message {
    /// `system`, `user` or `assistant`; other roles where the chat template knows them.
    pub role: *const c_char,
    /// What is said.
    pub text: *const c_char,
    /// Its pictures.
    pub images: *const *const lwv_image,
    /// How many they are.
    pub image_count: usize,
}

/// A conversation and its pictures, in order.
pub(crate) unsafe fn conversation(
    messages: *const lwv_message,
    count: usize,
) -> Result<(Vec<Message>, Vec<RgbImage>)> {
    let (mut conversation, mut images) = (Vec::new(), Vec::new());
    for message in list(messages, count, "messages")? {
        let shown = images_of(message.images, message.image_count)?;
        let said = text(message.text, "text")?;
        conversation.push(Message::with_images(
            text(message.role, "role")?,
            shown.len(),
            said,
        ));
        images.extend(shown);
    }
    Ok((conversation, images))
}
