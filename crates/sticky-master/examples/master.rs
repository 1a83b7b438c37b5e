//! A master for workers of any kind: `master ADDR:PORT N COMMAND [ARGUMENT...]` starts N processes of
//! the command, which speak the handoff protocol (docs/handoff.md), and passes connections to them.
//! They meet in the directory STICKY_RUNTIME_DIR; the next master there takes over the workers of one
//! that was killed.

use std::process::Command;

use sticky_master::{Master, MasterConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(listen), Some(workers), Some(program)) = (words.next(), words.next(), words.next())
    else {
        return Err("master ADDR:PORT N COMMAND [ARGUMENT...]".into());
    };
    let arguments: Vec<_> = words.collect();
    let command = move || {
        let mut command = Command::new(&program);
        command.args(&arguments);
        command
    };
    let runtime_dir = match std::env::var_os("STICKY_RUNTIME_DIR") {
        Some(runtime_dir) => runtime_dir.into(),
        None => std::env::temp_dir().join(format!("sticky-{}", std::process::id())),
    };
    let config = MasterConfig::new(
        vec![listen.parse()?],
        workers.parse()?,
        runtime_dir,
        command,
    );
    let master = Master::bind(config)?;
    let (handle, urls) = (master.handle(), master.urls().collect::<Vec<_>>());
    tokio::spawn(async move {
        handle.all_ready().await;
        println!("ready at {}", urls.join(", "));
    });
    master
        .run(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}
