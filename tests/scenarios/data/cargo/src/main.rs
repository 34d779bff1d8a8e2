use std::collections::HashMap;

fn main() {
    let mut map: HashMap<&str, i64, fnv::FnvBuildHasher> = HashMap::default();
    map.insert("answer", 42);
    let text = serde_json::json!({ "answer": map["answer"], "home": memchr::memchr(b'r', b"harness") });
    println!("{text}");
}
