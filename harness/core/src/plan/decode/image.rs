//! `image:` and `pull:` of a role: what its nodes are started from in containers.

use super::super::keys::PULL_MISSING;
use super::super::model::{Image, Pull};
use super::super::raw::{Kind, shorten};
use super::super::reader::{Field, Fields, Reader};

/// Engines take names of so many bytes.
const NAME_BYTES: usize = 512;

/// The image, if the role names one; a role needs that or a command.
pub(super) fn image(reader: &mut Reader, fields: &Fields<'_>) -> Option<Image> {
    let Some(field) = fields.get("image") else {
        if fields.get("pull").is_some() && !fields.slipped(&["image"]) {
            let why = "`pull` only goes with `image`";
            let at = fields.key_span("pull");
            reader.wrong(at, &fields.path, why, "remove it, or name an image");
        }
        if fields.get("command").is_none() && !fields.slipped(&["command", "image"]) {
            let why = "`command` is missing";
            let hint = "add `command`: program and arguments; placeholders in braces, `{settings}` for all settings as --key value; only with `image` it may be left out";
            reader.wrong(fields.span, &fields.path, why, hint);
        }
        return None;
    };
    let name = name(reader, &field);
    let pull = fields
        .get("pull")
        .map_or(Some(Pull::Never), |field| pull(reader, &field));
    Some(Image {
        name: name?,
        pull: pull?,
    })
}

fn name(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let name = reader.text(field)?;
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/' | ':' | '@');
    if name.is_empty()
        || name.len() > NAME_BYTES
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(allowed)
    {
        let why = format!("`{}` cannot be the name of an image", shorten(&name));
        let hint =
            "write it as `docker run` takes it: name:tag, registry/name:tag, name@sha256:...";
        reader.wrong(field.node.span, &field.path, why, hint);
        return None;
    }
    Some(name)
}

fn pull(reader: &mut Reader, field: &Field<'_>) -> Option<Pull> {
    if let Kind::Scalar { text, .. } = &field.node.kind
        && !matches!(text.as_str(), "true" | "false")
    {
        return reader.word(field, &[PULL_MISSING]).map(|_| Pull::Missing);
    }
    let always = reader.flag(field)?;
    Some(if always { Pull::Always } else { Pull::Never })
}
