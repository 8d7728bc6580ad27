//! The keeper: its container runs as long as its run does, and a little longer.
//!
//! Its input is held by the harness through the engine. However the harness ends, the engine sees
//! the connection close and closes the input; a while later the keeper exits, and only then is the
//! run dead to others. The while lets the run's own watchdog remove everything first.

use std::time::Duration;

use super::{Ends, streams};

/// How long a run counts as alive after its stream closed.
pub(crate) const AFTER: Duration = Duration::from_secs(30);

/// The entry point of the keeper's container.
pub fn keeper_main() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (input, _output) = streams().map_err(|error| error.to_string())?;
        let mut ends = Ends::new().map_err(|error| error.to_string())?;
        let kept = async {
            let mut buffer = [0; 256];
            loop {
                if input.readable().await.is_err() {
                    break;
                }
                match input.try_read(&mut buffer) {
                    // Whatever is said to it means that somebody is there.
                    Ok(1..) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => break,
                }
            }
            tokio::time::sleep(AFTER).await;
        };
        tokio::select! {
            () = kept => {}
            () = ends.asked_to_end() => {}
        }
        Ok(())
    })
}
