//! Which files stay in, one row each.

use std::ffi::OsStr;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{known, secret};

mod clients;
mod settings;

fn withheld(path: &[u8], content: &[u8]) -> bool {
    let path = Path::new(OsStr::from_bytes(path));
    let Some((test, _)) = known::suspect(path) else {
        return false;
    };
    let open = || {
        let file = tempfile::tempfile()?;
        (&file).write_all(content)?;
        (&file).rewind()?;
        Ok(file.into())
    };
    secret::holds(test, content.len() as u64, open).expect("readable")
}

const IN: bool = true;
const OUT: bool = false;

fn check(table: &[(&str, &str, bool, &str)]) {
    for (path, content, expected, why) in table {
        let is = withheld(path.as_bytes(), content.as_bytes());
        assert_eq!(is, *expected, "{path}: {content}: {why}");
    }
}

const OPENSSH: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE=\n";
const PKCS1: &str = "x\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIID\n-----END CERTIFICATE-----\n";

#[test]
fn keys() {
    check(&[
        ("/h/id_rsa", "key", IN, "ssh-keygen's name"),
        ("/h/id_ed25519", "", OUT, "empty"),
        ("/h/id_rsa.pub", "ssh-rsa AAAA", OUT, "the public half"),
        ("/h/.ssh/id_work", "key", IN, "named like a key in .ssh"),
        ("/h/.ssh/deploy_key", OPENSSH, IN, "any name in .ssh"),
        ("/h/.ssh/github", OPENSSH, IN, "any name in .ssh"),
        ("/h/.ssh/keys/github", PKCS1, IN, "any name below .ssh"),
        (
            "/h/.ssh/identity",
            "SSH PRIVATE KEY FILE FORMAT 1.1\n",
            IN,
            "SSH 1",
        ),
        (
            "/h/.ssh/rfc4716",
            "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n",
            IN,
            "ssh.com's form",
        ),
        ("/h/.ssh/known_hosts", "h ssh-rsa AAAA", OUT, "public"),
        ("/h/.ssh/config", "Host h\n", OUT, "no key"),
        ("/h/.ssh/deploy_key.pub", "ssh-rsa AAAA", OUT, "public"),
        ("/etc/ssh/ssh_host_rsa_key", OPENSSH, IN, "a host's"),
        ("/h/src/id_map.rs", "fn main() {}", OUT, "a program"),
        ("/h/deploy/id_deploy", OPENSSH, IN, "id_ and a key in it"),
        ("/h/deploy_key", "text", OUT, "no known name"),
        ("/h/certifi/cacert.pem", CERTIFICATE, OUT, "certificates"),
        ("/h/cert.pem", CERTIFICATE, OUT, "a certificate"),
        (
            "/h/public.pem",
            "-----BEGIN PUBLIC KEY-----\n",
            OUT,
            "public",
        ),
        (
            "/h/docs/privatekey.pem",
            "How to make a PRIVATE KEY.\n",
            OUT,
            "text only",
        ),
        ("/h/server.pem", PKCS1, IN, "a key"),
        ("/h/SERVER.PEM", PKCS1, IN, "case"),
        (
            "/h/e.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
            IN,
            "encrypted is a key too",
        ),
        (
            "/h/node_modules/x/test/fixtures/server.key",
            PKCS1,
            IN,
            "nobody can tell a fixture from a key",
        ),
        ("/h/tls.key", PKCS1, IN, "a key"),
        (
            "/h/private.asc",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n",
            IN,
            "OpenPGP's",
        ),
        (
            "/h/a.tar.gz.asc",
            "-----BEGIN PGP SIGNATURE-----\n",
            OUT,
            "a signature",
        ),
        ("/root/.gnupg/secring.gpg", "x", IN, "GnuPG's, once"),
        (
            "/root/.config/sops/age/keys.txt",
            "AGE-SECRET-KEY-1X\n",
            IN,
            "age's",
        ),
        ("/h/i18n.key", "hello", OUT, "no key"),
        (
            "/h/putty.ppk",
            "PuTTY-User-Key-File-3: ssh-ed25519\n",
            IN,
            "PuTTY's",
        ),
        ("/h/store.p12", "x", IN, "a key store"),
        ("/h/store.PFX", "x", IN, "a key store"),
        ("/h/release.jks", "x", IN, "a key store"),
        ("/h/debug.keystore", "x", IN, "a key store"),
        ("/h/empty.jks", "", OUT, "empty"),
        (
            "/root/.gnupg/private-keys-v1.d/AB.key",
            PKCS1,
            IN,
            "GnuPG's",
        ),
        ("/root/.gnupg/private-keys-v1.d/AB", "x", IN, "GnuPG's"),
    ]);
    assert!(withheld(b"/h/\xff.pem", PKCS1.as_bytes()), "not UTF-8");
    for at in [(1 << 20) + 17, (64 << 10) - 5, (128 << 10) - 20] {
        let mut bundle = vec![b'\n'; at];
        assert!(!withheld(b"/h/bundle.pem", &bundle));
        bundle.extend_from_slice(PKCS1.as_bytes());
        assert!(withheld(b"/h/bundle.pem", &bundle), "key at {at}");
    }
}

#[test]
fn binary_keys() {
    let table: &[(&[u8], bool, &str)] = &[
        (
            b"\x30\x82\x04\xa4\x02\x01\x00\x02\x82\x01\x01",
            IN,
            "PKCS #1",
        ),
        (
            b"\x30\x82\x04\xbe\x02\x01\x00\x30\x0d\x06\x09",
            IN,
            "PKCS #8",
        ),
        (b"\x30\x77\x02\x01\x01\x04\x20", IN, "SEC 1"),
        (
            b"\x30\x82\x05\x11\x30\x4b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d",
            IN,
            "encrypted PKCS #8",
        ),
        (b"\x30\x82\x09\x71\x02\x01\x03\x30\x82", IN, "PKCS #12"),
        (
            b"\x30\x82\x03\x5d\x30\x82\x02\x45\xa0\x03\x02\x01\x02",
            OUT,
            "a certificate",
        ),
        (
            b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01",
            OUT,
            "a public key",
        ),
        (
            b"\x30\x82\x01\x0a\x02\x82\x01\x01\x00",
            OUT,
            "a public key, PKCS #1",
        ),
        (b"\x30", OUT, "cut off"),
        (b"\x30\x84\x01", OUT, "cut off"),
    ];
    for (content, expected, what) in table {
        for name in ["/h/a.key", "/h/a.der", "/h/a.p8"] {
            let is = withheld(name.as_bytes(), content);
            assert_eq!(is, *expected, "{name}: {what}");
        }
    }
}

#[test]
fn environments() {
    check(&[
        ("/h/.env", "PORT=80\n", OUT, "no secret"),
        ("/h/.env", "export DB_PASSWORD='x'\n", IN, "a password"),
        ("/h/.env", "DB_PASSWORD: x\n", IN, "dotenv takes : too"),
        ("/h/.env", "DB_PASS=x=y\n", IN, "= in a value"),
        ("/h/.env", "BYPASS=x\n", OUT, "no password"),
        ("/h/.env", "TOKEN=\nSECRET=\"\"\nPASS=''\n", OUT, "empty"),
        ("/h/.env", "TOKEN= # fill in\n", OUT, "a comment"),
        ("/h/.env", "TOKEN=$OTHER\n", OUT, "dotenv knows $NAME"),
        ("/h/.env", "TOKEN=\"${OTHER}\" # ours\n", OUT, "a variable"),
        ("/h/.env", "PASSWORD=$ecret\n", IN, "in doubt"),
        ("/h/.env", "PASSWORD='$ECRET'\n", IN, "not in single quotes"),
        ("/h/.env", "PASSWORD=$1abc\n", IN, "no name"),
        (
            "/h/.env",
            "PASSWORD=${A:-x}\n",
            IN,
            "the default is readable",
        ),
        ("/h/.env", "PASSWORD=\"\"x\n", IN, "after the quotes"),
        ("/h/.env", "PASSWORD=\"\nx\"\n", IN, "on the next line"),
        ("/h/.env", "# TOKEN=x\n", OUT, "a comment"),
        ("/h/.env", "USE_TOKEN=true\n", OUT, "no secret is true"),
        (
            "/h/.env",
            "DATABASE_URL=postgres://u:p@h/d\n",
            IN,
            "a password in a URL",
        ),
        (
            "/h/.env",
            "DATABASE_URL=postgres://u:$DB_PASS@h/d\n",
            OUT,
            "a variable there",
        ),
        (
            "/h/.envrc",
            "export AWS_SECRET_ACCESS_KEY=x\n",
            IN,
            "direnv's",
        ),
        ("/h/.env.production", "API_KEY=x\n", IN, "a stage's"),
        ("/h/.env.production.local", "API_KEY=x\n", IN, "a stage's"),
        ("/h/.ENV", "API_KEY=x\n", IN, "case"),
        ("/h/prod.env", "DB_PASSWORD=x\n", IN, "a stage's"),
        ("/h/docker.env", "PORT=80\n", OUT, "no secret"),
        ("/h/example.env", "DB_PASSWORD=x\n", OUT, "an example"),
        ("/h/app.sample.env", "DB_PASSWORD=x\n", OUT, "an example"),
        ("/h/.env", "TOKENIZER_PATH=/x\n", OUT, "another word"),
        ("/h/.env", "TOKENIZER_TOKEN=x\n", IN, "both words"),
        ("/h/.env", "PASSWORD_MIN_LENGTH=8\n", OUT, "how long"),
        ("/h/.env", "TOKEN_EXPIRE_MINUTES=30\n", OUT, "how long"),
        ("/h/.env", "TOKEN_TTL=15m\n", OUT, "how long"),
        ("/h/.env", "TOKEN_MAX=x12\n", IN, "no number"),
        ("/h/.env", "PASSWORD=12345678\n", IN, "a number"),
        ("/h/.env.example", "DB_PASSWORD=x\n", OUT, "an example"),
        ("/h/.env.sample", "DB_PASSWORD=x\n", OUT, "an example"),
        ("/h/.env.test.example", "DB_PASSWORD=x\n", OUT, "an example"),
        ("/h/.env.js", "const token = 1\n", OUT, "a program"),
        ("/h/.env.ts", "TOKEN=x\n", OUT, "a program"),
        ("/h/.env.d.ts", "TOKEN: string\n", OUT, "a program"),
    ]);
}
