//! Polling handshakes, each on a connection of its own that the client then closes.

use std::rc::Rc;

use super::{Spec, repeat::Repeat};
use crate::client::http::Connection;
use crate::client::polling;
use crate::generator::Link;
use crate::tally::Tally;

pub(super) async fn run(spec: Rc<Spec>, link: &mut Link) -> anyhow::Result<Tally> {
    let target = spec.target();
    let slots = spec.own_clients().collect();
    let handshakes = Repeat::new(&spec, slots, async move |_: u32| {
        let mut connection = Connection::new(&target);
        polling::handshake(&mut connection).await.map(drop)
    });
    handshakes.run(spec.warming_up()).await?;
    let measured = link.ready(&spec).await?;
    let tally = handshakes.run(measured).await?;
    link.finished().await?;
    Ok(tally)
}
