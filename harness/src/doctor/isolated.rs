//! Tries what the isolated tier of the process substrate will stand on. No run can use it yet, which the report says.

use super::child::{Becomes, Nursery};
use super::report::Trouble;
use super::scratch::Said;
use super::{Bench, Kit};
use crate::substrate::process::{Nonce, OwnExecutable};

/// Sends one child through all of it: namespaces cannot be left again.
pub(super) async fn examine(bench: &mut Bench<'_>, kit: &Kit, exe: &OwnExecutable, nonce: Nonce) {
    let nursery = Nursery {
        kit,
        exe: exe.clone(),
        nonce,
    };
    let entered = enter(&nursery).await;
    while let Some(row) = bench.next() {
        let tried = match &entered {
            Err(trouble) => Err(trouble.clone()),
            Ok(entered) => {
                let found = entered.iter().find(|entered| entered.step == row.name);
                match found.map(|entered| (&entered.failed, entered.errno)) {
                    Some((None, _)) => Ok("entered".to_owned()),
                    Some((Some((what, why)), errno)) => Err(Trouble {
                        why: format!("{what}: {why}"),
                        errno,
                        fix: None,
                    }),
                    None => Err(Trouble::new("the child did not come so far")),
                }
            }
        };
        bench.attempt(row, std::future::ready(tried)).await;
    }
}

async fn enter(nursery: &Nursery<'_>) -> Result<Vec<super::namespaces::Entered>, Trouble> {
    let directory = super::shared::directory()?;
    let child = nursery.start(Becomes::Scratch(&["namespaces"]), directory.path())?;
    child.go(None).await?;
    match child.said().await? {
        Said::Entered(entered) => Ok(entered),
        Said::Failed(why) => Err(Trouble::new(why)),
        other => Err(Trouble::new(format!("the child said {other:?}"))),
    }
}
