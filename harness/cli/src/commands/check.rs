//! `check`: everything that is wrong with plans, without starting anything.

use serde_json::json;

use super::run::executables;
use super::{Failure, read_plan, schedule_of};
use crate::args::{CheckArgs, Form};
use crate::fit;
use crate::printer::Printer;

pub(crate) fn run(args: &CheckArgs, printer: &Printer) -> Result<u8, Failure> {
    let mut results = Vec::new();
    let mut code = 0;
    for path in &args.plans {
        let wrong = read_plan(path, printer)
            .and_then(|plan| {
                let schedule = schedule_of(path, &plan, plan.seed)?;
                let place = fit::place(args.substrate, &plan);
                fit::check(path, &plan, &schedule, place)?;
                executables(&plan, plan.releases.values(), path, place).map(drop)
            })
            .err();
        match &wrong {
            None => printer.note(&format!("{}: sound", path.display())),
            Some(failure) => {
                printer.failure(failure);
                code = 2;
            }
        }
        results.push(json!({
            "plan": path.display().to_string(),
            "sound": wrong.is_none(),
            "message": wrong.map(|failure| failure.to_string()),
        }));
    }
    if args.format == Form::Json {
        printer.json(&json!(results));
    }
    Ok(code)
}
