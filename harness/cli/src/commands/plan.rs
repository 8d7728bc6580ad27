//! `plan`: what a plan would do when, for a seed.

use tweedledum_core::schedule;

use super::{Failure, read_plan, schedule_of};
use crate::args::{Form, PlanArgs};
use crate::fit;
use crate::printer::Printer;

pub(crate) fn run(args: &PlanArgs, printer: &Printer) -> Result<u8, Failure> {
    let plan = read_plan(&args.plan, printer)?;
    let schedule = schedule_of(&args.plan, &plan, args.seed.unwrap_or(plan.seed))?;
    let place = fit::place(args.substrate, &plan);
    fit::by_rules(&args.plan, &plan, &schedule, place)?;
    match args.format {
        Form::Json => printer.json(&serde_json::to_value(&schedule).unwrap_or_default()),
        Form::Text => printer.text(&schedule::describe(&plan, &schedule, place)),
    }
    Ok(0)
}
