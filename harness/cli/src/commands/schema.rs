//! `schema`: the JSON Schema of the plan format, for editors.

use super::Failure;
use crate::printer::Printer;

pub(crate) fn run(printer: &Printer) -> Result<u8, Failure> {
    printer.json(&tweedledum_core::plan::schema());
    Ok(0)
}
