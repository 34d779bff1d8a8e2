//! Configuration of build tools and of clients of services.

use super::{IN, OUT, check};

#[test]
fn build_tools() {
    let gradle = "/h/app/gradle.properties";
    let bundle = "/h/.bundle/config";
    let nuget = "/h/NuGet.Config";
    check(&[
        (gradle, "nexusPassword=x\n", IN, "a password"),
        (gradle, "ossrhToken = x\n", IN, "a token"),
        (gradle, "signing.password=x\n", IN, "a password"),
        (gradle, "version=1.0\nname=x\n", OUT, "a project's"),
        (
            "/root/.m2/settings-ci.xml",
            "<password>x</password>",
            IN,
            "another name",
        ),
        ("/h/settings-ci.xml", "<mirrors/>", OUT, "no login"),
        ("/root/.sbt/.credentials", "password=x\n", IN, "the name"),
        ("/root/.ivy2/.credentials", "password=x\n", IN, "the name"),
        (
            bundle,
            "---\nBUNDLE_PATH: \"vendor/bundle\"\n",
            OUT,
            "no login",
        ),
        (bundle, "BUNDLE_GEM__FURY__IO: \"x\"\n", IN, "a host's"),
        (bundle, "BUNDLE_GITHUB__COM: u:p\n", IN, "a host's"),
        (bundle, "BUNDLE_GEM__TEST: \"rspec\"\n", OUT, "an answer"),
        (bundle, "BUNDLE_BUILD__PG: \"--with-x\"\n", OUT, "an option"),
        (
            bundle,
            "BUNDLE_MIRROR__HTTPS://RUBYGEMS__ORG/: \"https://m/\"\n",
            OUT,
            "a mirror",
        ),
        (
            bundle,
            "BUNDLE_MIRROR__HTTPS://RUBYGEMS__ORG/: \"https://u:p@m/\"\n",
            IN,
            "a mirror with a password",
        ),
        (
            nuget,
            "<add key=\"ClearTextPassword\" value=\"x\" />",
            IN,
            "a password",
        ),
        (
            nuget,
            "<add value='x' key='Password'/>",
            IN,
            "an encrypted one",
        ),
        (
            nuget,
            "<add key=\"ClearTextPassword\" value=\"%PW%\" />",
            OUT,
            "a variable",
        ),
        (
            nuget,
            "<!-- <add key=\"Password\" value=\"x\"/> -->",
            OUT,
            "a comment",
        ),
        (
            nuget,
            "<add key=\"nuget.org\" value=\"https://api.nuget.org\"/>",
            OUT,
            "a source",
        ),
        (
            nuget,
            "<apikeys><add key=\"https://n/\" value=\"x\"/></apikeys>",
            IN,
            "an API key",
        ),
        (
            nuget,
            "<apikeys></apikeys><add key=\"a\" value=\"x\"/>",
            OUT,
            "after them",
        ),
        (
            "/root/.condarc",
            "channels:\n  - https://u:p@h/c\n",
            IN,
            "a password in a URL",
        ),
        (
            "/root/.condarc",
            "channels:\n  - conda-forge\n",
            OUT,
            "no login",
        ),
        (
            "/h/pip.ini",
            "index-url = https://u:p@h/simple\n",
            IN,
            "a password in a URL",
        ),
        (
            "/h/pip.ini",
            "index-url = https://h/simple\n",
            OUT,
            "no login",
        ),
    ]);
}

#[test]
fn services() {
    let curl = "/root/.curlrc";
    let glab = "/root/.config/glab-cli/config.yml";
    let docker = "/builds/docker-config/config.json";
    check(&[
        (
            docker,
            "{\"auths\":{\"r\":{\"auth\":\"eA==\"}}}",
            IN,
            "a login",
        ),
        (docker, "{\"auths\":{\"r\":{\"auth\":\"\"}}}", OUT, "empty"),
        (docker, "{\"auths\":{}}", OUT, "no login"),
        (
            docker,
            "{\"auth\":\"basic\",\"password\":\"x\"}",
            OUT,
            "another program's",
        ),
        (
            "/root/.config/helm/registry/config.json",
            "{\"auths\": {\"r\": {\"auth\": \"eA==\"}}}",
            IN,
            "Helm's",
        ),
        (
            "/root/.config/hub",
            "github.com:\n- oauth_token: x\n",
            IN,
            "the name",
        ),
        (glab, "hosts:\n  gitlab.com:\n    token: x\n", IN, "a token"),
        (
            glab,
            "hosts:\n  gitlab.com:\n    token:\n    api_host: h\n",
            OUT,
            "empty",
        ),
        ("/root/.pulumi/credentials.json", "{}", IN, "the name"),
        (
            "/root/.databrickscfg",
            "[DEFAULT]\ntoken = x\n",
            IN,
            "a token",
        ),
        (
            "/root/.databrickscfg",
            "[DEFAULT]\nhost = h\n",
            OUT,
            "no login",
        ),
        (curl, "silent\nuser-agent = x\n", OUT, "no login"),
        (curl, "user = \"u:p\"\n", IN, "a login"),
        (curl, "-u u:p\n", IN, "a login"),
        (curl, "--proxy-user u:p\n", IN, "a login"),
        (
            curl,
            "header = \"Authorization: Bearer x\"\n",
            IN,
            "a header",
        ),
        (
            curl,
            "header = \"Accept: text/plain\"\n",
            OUT,
            "another header",
        ),
    ]);
}
