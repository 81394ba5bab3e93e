use parquet::record::{Field, Row};

use crate::draft::Draft;
use crate::media::MediaDir;
use crate::{ImageSource, Problem};

type Result<T> = std::result::Result<T, Problem>;

/// Reads a row of the published dataset.
pub(crate) fn draft(row: &Row, media: &MediaDir) -> Result<Draft> {
    let mut draft = Draft::default();
    for (index, text) in items(row, "messages")?.iter().enumerate() {
        let Field::Str(text) = text else {
            let message = "is no text; expected texts that user and assistant say by turns";
            return Err(Problem::field(format!("messages[{index}]"), message));
        };
        let role = if index % 2 == 0 { "user" } else { "assistant" };
        draft.say(role, text);
    }
    let images = items(row, "images")?.iter().enumerate();
    draft.images = images
        .map(|(index, image)| picture(image, &format!("images[{index}]"), media))
        .collect::<Result<_>>()?;
    Ok(draft)
}

/// The items of a list column. One that is null or missing is empty.
fn items<'a>(row: &'a Row, column: &str) -> Result<&'a [Field]> {
    match field(row, column) {
        None | Some(Field::Null) => Ok(&[]),
        Some(Field::ListInternal(list)) => Ok(list.elements()),
        Some(_) => Err(Problem::field(column, "is no list")),
    }
}

fn field<'a>(row: &'a Row, name: &str) -> Option<&'a Field> {
    row.get_column_iter()
        .find_map(|(column, field)| (column == name).then_some(field))
}

/// A picture as the `datasets` library stores it: a structure of `bytes` and `path`, of which one may be null.
fn picture(image: &Field, place: &str, media: &MediaDir) -> Result<ImageSource> {
    let Field::Group(image) = image else {
        return Err(Problem::field(place, "is no structure of `bytes` and `path`"));
    };
    match (field(image, "bytes"), field(image, "path")) {
        (Some(Field::Bytes(bytes)), _) => Ok(ImageSource::Bytes(bytes.data().to_vec())),
        (_, Some(Field::Str(path))) => media.source(&format!("{place}.path"), path),
        _ => Err(Problem::field(place, "has neither `bytes` nor a `path`")),
    }
}
