//! Layouts forged byte by byte.

use std::io::Write;
use std::path::{Path, PathBuf};

use harness_fs::export::{Destination, Imported, import};
use harness_fs::layer::Inos;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub fn raw(name: &[u8], kind: EntryType, link: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(size);
    header.set_cksum();
    header
}

/// A tar under construction.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn entry(mut self, name: &str, kind: EntryType, link: &str, content: &[u8]) -> Tar {
        let size = content.len() as u64;
        let header = raw(name.as_bytes(), kind, link.as_bytes(), size);
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    pub fn dir(self, name: &str) -> Tar {
        self.entry(name, EntryType::Directory, "", b"")
    }
    pub fn file(self, name: &str) -> Tar {
        self.entry(name, EntryType::Regular, "", b"content")
    }
    pub fn empty(self, name: &str) -> Tar {
        self.entry(name, EntryType::Regular, "", b"")
    }
    pub fn pax(self, record: &str) -> Tar {
        self.entry("PaxHeaders/x", EntryType::XHeader, "", record.as_bytes())
    }
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn start() -> Tar {
    Tar::default().dir("harness/")
}

/// How to spoil a layout.
#[derive(Default)]
pub struct Spoil {
    pub media_type: Option<&'static str>,
    pub diff_id: Option<String>,
    pub no_annotations: bool,
    pub mapped: Option<&'static str>,
    pub base: Option<&'static str>,
}

pub fn put(dir: &Path, bytes: &[u8]) -> String {
    let digest = digest(bytes);
    std::fs::write(dir.join("blobs/sha256").join(&digest), bytes).expect("write");
    digest
}

/// Writes a layout with one layer; returns the layer's digest.
pub fn layout(dir: &Path, tar: &[u8], spoil: &Spoil) -> String {
    std::fs::create_dir_all(dir.join("blobs/sha256")).expect("mkdir");
    let kind = spoil.media_type.unwrap_or("tar+zstd");
    let blob = match kind {
        "tar+zstd" => zstd::encode_all(tar, 1).expect("zstd"),
        "tar+gzip" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).expect("gzip");
            encoder.finish().expect("gzip")
        }
        _ => tar.to_vec(),
    };
    let layer = put(dir, &blob);
    let diff_id = spoil.diff_id.clone().unwrap_or_else(|| digest(tar));
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
    })
    .to_string();
    let config_digest = put(dir, config.as_bytes());
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config_digest}"), "size": config.len(),
        },
        "layers": [{
            "mediaType": format!("application/vnd.oci.image.layer.v1.{kind}"),
            "digest": format!("sha256:{layer}"), "size": blob.len(),
        }],
    });
    if !spoil.no_annotations {
        manifest["annotations"] = json!({
            "io.harness.fs.mapped-paths": spoil.mapped.unwrap_or("[\"/harness\"]"),
            "io.harness.fs.base": spoil.base.unwrap_or("included"),
        });
    }
    let manifest = manifest.to_string();
    let manifest_digest = put(dir, manifest.as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest_digest}"), "size": manifest.len(),
        }],
    });
    std::fs::write(dir.join("index.json"), index.to_string()).expect("write");
    std::fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("write");
    layer
}

pub fn run(tmp: &Path) -> harness_fs::error::Result<Imported> {
    let mapped = [PathBuf::from("/harness")];
    let mut ids = |name: &str| format!("000001-{name}");
    let target = Destination {
        layers: &tmp.join("layers"),
        mapped: &mapped,
        inos: &Inos::new(1),
        wanted: &|| Ok(()),
    };
    import(&tmp.join("in"), target, &mut ids)
}

/// Imports and expects a refusal that says `why` and leaves nothing.
pub fn refused(tmp: &Path, why: &str) {
    let error = run(tmp).expect_err(why).to_string();
    assert!(error.contains(why), "{why}: {error}");
    let left = std::fs::read_dir(tmp.join("layers")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{why}: something is left");
}
