//! The end of every layer, and how fit the host was during it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tweedledum_core::history::LayerRecord;
use tweedledum_core::run::Event;

use super::happened::Happened;
use crate::observe::lateness::LayerTicker;
use crate::observe::procfs::HostLoad;
use crate::substrate::Vantage;

/// Tells the end of every layer from genesis on. A layer is as late as the latest of this process and of all who act and
/// look elsewhere.
pub(super) async fn tell(
    mut ticker: LayerTicker,
    layer: Duration,
    vantages: Vec<Arc<dyn Vantage>>,
    loop_: mpsc::Sender<Happened>,
) {
    let mut before = HostLoad::read();
    loop {
        let tick = match ticker.tick().await {
            Ok(tick) => tick,
            Err(error) => {
                tracing::error!(%error, "layers are not told any more");
                return;
            }
        };
        let now = HostLoad::read();
        // Asked at every tick, so that what was before genesis does not count for the first layer.
        let elsewhere = vantages.iter().map(|vantage| vantage.lateness()).max();
        // Tick n is the start of layer n, and so the end of the one before it.
        if let Some(ended) = tick.layer.checked_sub(1) {
            let record = LayerRecord {
                layer: i64::try_from(ended).unwrap_or(i64::MAX),
                late_us: tick.late_us.max(micros(elsewhere.unwrap_or_default())),
                steal_ppm: ppm(now.steal_since(&before)).unwrap_or(0),
                cpu_pressure_ppm: ppm(now.pressure_since(&before, layer)),
                wall_step_us: Some(tick.wall_step_us),
                unwatched: false,
            };
            let ended = Happened::Told(Event::LayerEnded(record));
            if loop_.send(ended).await.is_err() {
                return;
            }
        }
        before = now;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A share from 0 to 1 in parts per million.
fn ppm(share: Option<f64>) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share is clamped to 0 to 1"
    )]
    share.map(|share| (share.clamp(0.0, 1.0) * 1e6) as u64)
}
