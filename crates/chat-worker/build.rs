//! Embeds the page, if `make web` has built it, and the official client's bundle, if it has
//! installed it.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Served under the names that the JavaScript server uses.
const CLIENT_FILES: [&str; 6] = [
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
    println!("cargo:rerun-if-changed=build.rs");
    write_table("client_bundle.rs", &client_files(&web));
    write_table("page.rs", &page_files(&web));
}

/// A file to embed.
struct Entry {
    /// Where it is served.
    path: String,
    etag: String,
    file: PathBuf,
}

/// A path that does not exist would make every build run this again; its parent tells when it comes
/// to be.
fn watch(path: &Path, parent: &Path) {
    if let Some(watched) = [path, parent].into_iter().find(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
}

fn client_files(web: &Path) -> Vec<Entry> {
    let package = web.join("node_modules/socket.io-client");
    watch(&package, web);
    let Some(version) = version(&package) else {
        return Vec::new();
    };
    let entry = |name: &str| Entry {
        path: format!("/socket.io/{name}"),
        etag: version.clone(),
        file: package.join("dist").join(name),
    };
    let entries = CLIENT_FILES.into_iter().map(entry);
    entries.filter(|entry| entry.file.is_file()).collect()
}

fn version(package: &Path) -> Option<String> {
    let json = fs::read_to_string(package.join("package.json")).ok()?;
    let (_, after) = json.split_once("\"version\"")?;
    let version = after.split('"').nth(1)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
    version.chars().all(plain).then(|| version.to_owned())
}

fn page_files(web: &Path) -> Vec<Entry> {
    let dist = web.join("dist");
    watch(&dist, web);
    let mut files = Vec::new();
    collect(&dist, &mut files);
    // Half a page is worse than none.
    if !files.contains(&dist.join("index.html")) {
        return Vec::new();
    }
    files.sort();
    let compressed = |file: &PathBuf| file.extension().is_some_and(|e| e == "br" || e == "gz");
    let files = files.iter().filter(|file| !compressed(file));
    let entry = |file: &PathBuf| {
        let name = file.strip_prefix(&dist).expect("found below it");
        let name = name.to_str().expect("the bundler's names are ASCII");
        Entry {
            path: format!("/{}", if name == "index.html" { "" } else { name }),
            etag: digest(file),
            file: file.clone(),
        }
    };
    files.map(entry).collect()
}

/// All files below a directory; none if there is none.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Tells one content from another, no more.
fn digest(file: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(file).expect("a file that was found can be read"));
    format!("{:016x}", hasher.finish())
}

/// The constant `FILES`, to be included where `File` is known.
fn write_table(name: &str, entries: &[Entry]) {
    let mut source = String::from("const FILES: &[File] = &[\n");
    for Entry { path, etag, file } in entries {
        let bytes = |file: &Path| {
            let file = fs::canonicalize(file).ok()?;
            Some(format!("include_bytes!({file:?})"))
        };
        let compressed = |extension: &str| {
            let file = format!("{}.{extension}", file.display());
            match bytes(Path::new(&file)) {
                Some(bytes) => format!("Some({bytes})"),
                None => "None".to_owned(),
            }
        };
        writeln!(
            source,
            "File {{ path: {path:?}, etag: {:?}, bytes: {}, br: {}, gz: {} }},",
            format!("\"{etag}\""),
            bytes(file).expect("a file that was found is there"),
            compressed("br"),
            compressed("gz"),
        )
        .expect("a string takes all");
    }
    source.push_str("];\n");
    let out = env::var("OUT_DIR").expect("set by cargo");
    fs::write(Path::new(&out).join(name), source).expect("OUT_DIR is writable");
}
