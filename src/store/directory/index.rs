//! The `index.json` of a store in a directory: for other tools, we read the refs.

use std::io::Read;

use serde_json::{Value, json};

use super::{Directory, disk, if_there, open};
use crate::store::failure::{Failure, Kind, Result};
use crate::store::names::image_name;
use crate::store::reference::{INDEX_TYPE, RefName, Target};

const INDEX: &str = "index.json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The largest index that is read: a hundred thousand refs.
const LARGEST: u64 = 64 << 20;

impl Directory {
    /// Gives the image of a ref its name, or takes it away. The caller holds the lock.
    ///
    /// Names of others stay as they are: `skopeo copy … oci:DIR:name` may have written them.
    pub(super) fn name_image(&self, name: &RefName, target: Option<&Target>) -> Result<()> {
        let path = self.root.join(INDEX);
        let name = image_name(name.scope(), name.key());
        let mut index = match if_there(open(&path))? {
            None => json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}),
            Some((file, _)) => {
                let mut bytes = Vec::new();
                disk(file.take(LARGEST).read_to_end(&mut bytes), &path)?;
                serde_json::from_slice(&bytes).unwrap_or_default()
            }
        };
        let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
        let Some(manifests) = manifests else {
            let text = format!("{} is not an OCI image index", path.display());
            return Err(Failure::new(Kind::Invalid, text));
        };
        manifests.retain(|image| image["annotations"][REF_NAME] != name.as_str());
        if let Some(target) = target {
            let mut target = target.clone();
            target.annotations.insert(REF_NAME.to_owned(), name.clone());
            manifests.push(serde_json::to_value(target).unwrap_or(Value::Null));
        }
        self.write(&path, index.to_string().as_bytes())
    }
}
