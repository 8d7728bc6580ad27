//! The real executable on a real engine.
//!
//! Run with `cargo test --release --workspace --test docker -- --ignored`; needs an engine, and
//! fails where none answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "times that are worth reading")]

mod compose;
mod doctor;
mod killed;
mod runs;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tweedledum_harness::substrate::docker::engine::Engine;
use tweedledum_harness::substrate::docker::image::{Image, own_image};

/// Held by every test that runs a network: two at once keep two processors too busy for sound layers.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the engine something, by a client of the tests' own that does not go through what is tested.
fn ask<T>(question: impl AsyncFnOnce(bollard::Docker) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { question(bollard::Docker::connect_with_defaults().unwrap()).await })
}

/// The image of the real executable, on the engine.
fn image() -> Image {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = Engine::find().await.unwrap();
        own_image(&engine, Path::new(env!("CARGO_BIN_EXE_tweedledum")))
            .await
            .unwrap()
    })
}
