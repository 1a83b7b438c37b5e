//! Embeds the official client's bundle, if `make web` has installed it.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// Served under the names that the JavaScript server uses.
const FILES: [&str; 6] = [
    "socket.io.js",
    "socket.io.js.map",
    "socket.io.min.js",
    "socket.io.min.js.map",
    "socket.io.esm.min.js",
    "socket.io.esm.min.js.map",
];

fn main() {
    let crate_dir = env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let web = Path::new(&crate_dir).join("../../web");
    let package = web.join("node_modules/socket.io-client");
    // A path that does not exist would make every build run this again; its parent tells when it
    // comes to be.
    let watched = [&package, &web].into_iter().find(|path| path.exists());
    if let Some(watched) = watched {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
    println!("cargo:rerun-if-changed=build.rs");

    let mut source = String::from("const FILES: &[File] = &[\n");
    if let Some(version) = version(&package) {
        for name in FILES {
            let path = package.join("dist").join(name);
            if let Ok(path) = fs::canonicalize(&path) {
                writeln!(
                    source,
                    "File {{ path: {:?}, etag: {:?}, bytes: include_bytes!({:?}) }},",
                    format!("/socket.io/{name}"),
                    format!("\"{version}\""),
                    path
                )
                .expect("a string takes all");
            }
        }
    }
    source.push_str("];\n");
    let out = env::var("OUT_DIR").expect("set by cargo");
    fs::write(Path::new(&out).join("client_bundle.rs"), source).expect("OUT_DIR is writable");
}

fn version(package: &Path) -> Option<String> {
    let json = fs::read_to_string(package.join("package.json")).ok()?;
    let (_, after) = json.split_once("\"version\"")?;
    let version = after.split('"').nth(1)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
    version.chars().all(plain).then(|| version.to_owned())
}
