//! Users that write to each other at a steady rate, send again what was refused, and keep a ledger
//! of what became of each message.

mod correspondent;
mod ledger;

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

pub(crate) use correspondent::{Correspondent, Due};
pub(crate) use ledger::{Answered, Ledger, Letter, Verdict, letter_of};

use crate::pace::Pace;

/// Has letters written at `rate` a second from `start` on the clock for `time`, whatever becomes
/// of them. `route` says who writes the next one, and to whom; `writers` has the former's channel.
pub(crate) async fn write_steadily(
    ledger: &Rc<Ledger>,
    rate: f64,
    start: u64,
    time: Duration,
    mut route: impl FnMut(u32) -> (u32, u32),
    writers: &[mpsc::UnboundedSender<Due>],
) -> anyhow::Result<()> {
    let mut pace = Pace::new(rate, start, time)?;
    let mut count = 0;
    // A user whose connection has ended is in the ledger; what it would have sent is not acked.
    while let Some((due, letters)) = pace.due().await? {
        for _ in 0..letters {
            let (from, to) = route(count);
            count += 1;
            let number = ledger.write(from, to, due);
            // One whose connection has ended is in the ledger already.
            let _ = writers[from as usize].send(Due {
                number,
                to,
                at: due,
            });
        }
    }
    Ok(())
}
