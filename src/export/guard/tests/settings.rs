//! Configuration that holds logins.

use super::{IN, OUT, check, withheld};

#[test]
fn package_managers() {
    let npm = "/h/.npmrc";
    let yarn = "/h/.yarnrc.yml";
    check(&[
        (
            npm,
            "registry=https://r/\nalways-auth=true\n",
            OUT,
            "no login",
        ),
        (npm, "//r/:_authToken=${NPM_TOKEN}\n", OUT, "a variable"),
        (npm, "//r/:_authToken=\"${NPM_TOKEN}\"\n", OUT, "a variable"),
        (npm, "//r/:_authToken=${NPM_TOKEN?}\n", OUT, "a variable"),
        (npm, "//r/:_authToken=npm_abc\r\n", IN, "a token"),
        (npm, "\"//r/:_authToken\"=npm_abc\n", IN, "a quoted key"),
        (npm, "_auth = abc==\n", IN, "a login"),
        (npm, "# _auth = abc\n", OUT, "a comment"),
        (npm, "_auth = # abc\n", OUT, "empty, with a comment"),
        (npm, "_password=$ecret\n", IN, "npm knows no $NAME"),
        (npm, "_password=$SECRET\n", IN, "npm knows no $NAME"),
        (npm, "_password=${A}b\n", IN, "more than a variable"),
        (npm, "_password=\\${A}\n", IN, "escaped"),
        (npm, "_password=${A\n", IN, "not closed"),
        (npm, "registry=https://u:p@r/\n", IN, "a password in a URL"),
        (npm, "registry=https://u:${P}@r/\n", OUT, "a variable there"),
        (npm, "key=\"-----BEGIN PRIVATE KEY-----\\n\"\n", IN, "a key"),
        (
            "/usr/etc/npmrc",
            "//r/:_authToken=npm_abc\n",
            IN,
            "the global one",
        ),
        (
            "/h/.yarnrc",
            "\"//r/:_authToken\" \"npm_abc\"\n",
            IN,
            "yarn 1",
        ),
        (
            "/h/.yarnrc",
            "registry \"https://r/\"\n",
            OUT,
            "yarn 1, no login",
        ),
        (
            yarn,
            "npmAuthIdent: \"dXNlcjpwYXNzd29yZA==\"\n",
            IN,
            "= in a value",
        ),
        (
            yarn,
            "npmAuthIdent: dXNlcjpwYXNzd29yZA==\n",
            IN,
            "= in a value",
        ),
        (yarn, "npmAuthToken: $ecret\n", IN, "yarn knows no $NAME"),
        (
            yarn,
            "npmAuthToken: \"${NPM_TOKEN}\" # ours\n",
            OUT,
            "a variable",
        ),
        (
            yarn,
            "npmAuthToken: ${NPM_TOKEN:-}\n",
            OUT,
            "an empty default",
        ),
        (
            yarn,
            "npmAuthToken: ${NPM_TOKEN:-abc}\n",
            IN,
            "the default is readable",
        ),
        (yarn, "npmAuthToken:\nother: x\n", OUT, "empty"),
        (yarn, "a:\n  npmAuthToken:\n    abc\n", IN, "the next line"),
        (yarn, "npmAuthToken: >-\n  abc\n", IN, "a block"),
        (
            yarn,
            "npmScopes: { a: { npmAuthToken: abc } }\n",
            IN,
            "a flow mapping",
        ),
        (
            yarn,
            "npmScopes: { a: { npmAuthToken: \"${T}\" } }\n",
            OUT,
            "a flow mapping",
        ),
        (
            yarn,
            "nodeLinker: node-modules\nyarnPath: .yarn/y.cjs\n",
            OUT,
            "no login",
        ),
        ("/root/.pypirc", "[pypi]\npassword = pypi-x\n", IN, "="),
        ("/root/.pypirc", "[pypi]\npassword: pypi=x\n", IN, ":"),
        (
            "/root/.pypirc",
            "[pypi]\nrepository = https://r/\n",
            OUT,
            "no login",
        ),
        (
            "/etc/pip.conf",
            "[global]\nextra-index-url =\n  https://u:p@r/simple\n",
            IN,
            "a password in a URL",
        ),
        (
            "/root/.config/pip/pip.conf",
            "[global]\nindex-url = https://r/simple\n",
            OUT,
            "no login",
        ),
        (
            "/root/.composer/auth.json",
            "{\"github-oauth\": {\"github.com\": \"x\"}}",
            IN,
            "a token",
        ),
        (
            "/h/auth.json",
            "{\"http-basic\":{\"r\":{\"username\":\"u\",\"password\":\"p\"}}}",
            IN,
            "a project's",
        ),
        (
            "/h/auth.json",
            "{\"bearer\":{},\"http-basic\":{}}",
            OUT,
            "as Composer makes it",
        ),
        ("/h/auth.json", "{\"realm\":\"x\"}", OUT, "something else"),
        ("/h/auth.json", "{\"bearer\": {\"r\":", IN, "in doubt"),
        (
            "/root/.m2/settings.xml",
            "<settings><mirrors/></settings>",
            OUT,
            "no login",
        ),
        (
            "/root/.m2/settings.xml",
            "<password>x</password>",
            IN,
            "a password",
        ),
        (
            "/h/ci/settings.xml",
            "<passphrase>\n x</passphrase>",
            IN,
            "a project's",
        ),
        (
            "/root/.m2/settings.xml",
            "<password>${env.TOKEN}</password>",
            OUT,
            "a variable",
        ),
        (
            "/root/.m2/settings.xml",
            "<password><![CDATA[x]]></password>",
            IN,
            "CDATA",
        ),
        (
            "/root/.m2/settings.xml",
            "<password <password a='b'>x</password>",
            IN,
            "an attribute",
        ),
        (
            "/root/.m2/settings.xml",
            "<passwordPolicy>x</passwordPolicy>",
            OUT,
            "another element",
        ),
        (
            "/root/.m2/settings.xml",
            "<password/><password></password>",
            OUT,
            "empty",
        ),
        (
            "/m/conf/settings.xml",
            "<!-- <password>x</password> --><a/>",
            OUT,
            "Maven's own has an example",
        ),
        (
            "/h/settings.xml",
            "<httpHeaders><property><name>Job-Token</name><value>x</value>",
            IN,
            "a header",
        ),
        ("/h/settings.xml", "<value>x</value>", OUT, "no Maven"),
        (
            "/root/.gradle/gradle.properties",
            "nexusPassword=x\n",
            IN,
            "a password",
        ),
        (
            "/root/.gradle/gradle.properties",
            "signing.password x\n",
            IN,
            "a blank between",
        ),
        (
            "/root/.gradle/gradle.properties",
            "org.gradle.jvmargs=-Xmx2g -Da=b\n",
            OUT,
            "no secret",
        ),
        ("/root/.cargo/credentials", "x", IN, "the name"),
        ("/root/.cargo/credentials.toml", "x", IN, "the name"),
        (
            "/root/.cargo/config.toml",
            "[registries.r]\ntoken = \"x\"\n",
            IN,
            "a token",
        ),
        (
            "/root/.cargo/config.toml",
            "r = { index = \"i\", token = \"x\" }\n",
            IN,
            "a token in a table",
        ),
        (
            "/h/.cargo/config.toml",
            "[build]\ntarget = \"x\"\n",
            OUT,
            "no login",
        ),
        ("/root/.gem/credentials", "x", IN, "the name"),
    ]);
}

#[test]
fn logins() {
    let git = "/h/.git/config";
    let account = "{\n \"type\": \"service_account\",\n \"private_key_id\": \"0123456789\",\n \
         \"private_key\": \"-----BEGIN PRIVATE KEY-----\\nMIIE\\n-----END PRIVATE KEY-----\\n\",\n \
         \"client_email\": \"x@project.iam.gserviceaccount.com\"\n}\n";
    let user = "{\"type\": \"authorized_user\", \"client_id\": \"012345678901234567890123456789\", \
         \"client_secret\": \"0123456789012345678901\", \"refresh_token\": \
         \"01234567890123456789012345678901234567890123456789012345678901234567890123456789\"}";
    let federated = account.replace("PRIVATE KEY", "PUBLIC KEY");
    check(&[
        ("/root/.netrc", "machine h password p", IN, "the name"),
        ("/h/_netrc", "machine h password p", IN, "the name"),
        ("/root/.netrc", "", OUT, "empty"),
        ("/root/.git-credentials", "https://u:p@h", IN, "the name"),
        (
            "/root/.config/git/credentials",
            "https://u:p@h",
            IN,
            "the name",
        ),
        (
            git,
            "[remote \"origin\"]\n\turl = https://github.com/a/b.git\n",
            OUT,
            "no login",
        ),
        (git, "\turl = https://u:p@h/a\n", IN, "a password in a URL"),
        (git, "\turl = https://john@h/a\n", OUT, "a user"),
        (git, "\turl = ssh://git@h/a\n", OUT, "a user"),
        (git, "\turl = git@h:a/b\n", OUT, "a user"),
        (
            git,
            "\turl = https://ghp_0123456789abcdefghij@h/a\n",
            IN,
            "a token as the user",
        ),
        (
            git,
            "\textraheader = AUTHORIZATION: basic eA==\n",
            IN,
            "a header",
        ),
        (git, "\tExtraHeader=Cookie: x\n", IN, "case"),
        (git, "\textraheader =\n", OUT, "empty"),
        (
            git,
            "[url \"https://t:x@h/\"]\n\tinsteadOf = https://h/\n",
            IN,
            "a rewrite",
        ),
        (
            git,
            "\thelper = \"!f() { echo password=x; }; f\"\n",
            IN,
            "a helper",
        ),
        (
            git,
            "\thelper = \"!f() { echo password=${T}; }; f\"\n",
            OUT,
            "a helper with a variable",
        ),
        (git, "[branch \"token\"]\n\tremote = o\n", OUT, "a branch"),
        (
            "/h/.git/modules/m/config",
            "url = https://u:p@h/a",
            IN,
            "a submodule's",
        ),
        (
            "/srv/a.git/config",
            "url = https://u:p@h/a",
            IN,
            "a bare repository's",
        ),
        (
            "/h/app/config",
            "url = https://u:p@h/a",
            OUT,
            "no repository",
        ),
        (
            "/root/.gitconfig",
            "[http]\nproxy = http://u:p@h\n",
            IN,
            "a proxy",
        ),
        ("/root/.aws/credentials", "x", IN, "the name"),
        (
            "/root/.aws/config",
            "[default]\nregion = eu-central-1\n",
            OUT,
            "no key",
        ),
        (
            "/root/.aws/config",
            "aws_secret_access_key=x\n",
            IN,
            "a key",
        ),
        (
            "/root/.aws/config",
            "aws_session_token = x\n",
            IN,
            "a token",
        ),
        ("/root/.aws/sso/cache/0.json", "{}", IN, "tokens"),
        (
            "/root/.docker/config.json",
            "{\"credsStore\":\"x\"}",
            OUT,
            "no login",
        ),
        (
            "/root/.docker/config.json",
            "{\"auths\":{\"r\":{\"auth\":\"eA==\"}}}",
            IN,
            "a login",
        ),
        (
            "/root/.docker/config.json",
            "{\n \"auths\": {\n  \"r\": {\n   \"auth\":\n    \"eA==\"\n",
            IN,
            "on lines",
        ),
        (
            "/root/.docker/config.json",
            "{\"auths\":{\"r\":{\"auth\":\"\"}}}",
            OUT,
            "empty",
        ),
        ("/root/config.json", "{\"auth\":1}", OUT, "not Docker's"),
        ("/root/.kube/config", "x", IN, "the name"),
        (
            "/h/kubeconfig",
            "users:\n- user:\n    token: x\n",
            IN,
            "a token",
        ),
        (
            "/h/kubeconfig",
            "users:\n- user:\n    exec: {}\n",
            OUT,
            "no token",
        ),
        (
            "/root/.config/rclone/rclone.conf",
            "[r]\npass = x\n",
            IN,
            "the name",
        ),
        (
            "/root/.terraformrc",
            "credentials \"h\" {\n  token = \"x\"\n}\n",
            IN,
            "a token",
        ),
        (
            "/root/.terraformrc",
            "plugin_cache_dir = \"x\"\n",
            OUT,
            "no token",
        ),
        (
            "/root/.terraform.d/credentials.tfrc.json",
            "x",
            IN,
            "the name",
        ),
        ("/root/.pgpass", "h:1:d:u:p", IN, "the name"),
        ("/root/.my.cnf", "[client]\npassword = \"x\"\n", IN, "="),
        ("/root/.my.cnf", "[client]\nuser = x\n", OUT, "no login"),
        (
            "/h/gcp-key.json",
            account,
            IN,
            "a service account by any name",
        ),
        ("/h/gcp-key.json", &federated, OUT, "no private key"),
        ("/h/package.json", account, OUT, "never opened"),
        ("/h/adc.json", user, IN, "a user's token"),
    ]);
    let long = format!("{account}{}", " ".repeat(20_000));
    assert!(
        !withheld(b"/h/a.json", long.as_bytes()),
        "longer than any account"
    );
    let long = "a=b\n".repeat(2 << 20);
    assert!(withheld(b"/h/.npmrc", long.as_bytes()), "too long to read");
}
