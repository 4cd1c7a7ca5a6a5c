//! Every form, every refusal, and that no password gets out.

use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Address {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn credentials(text: &str) -> Option<(Option<String>, String)> {
    address(text).credentials.map(|found| (found.user, found.password))
}

#[test]
fn each_form_and_how_it_is_shown() {
    for (text, shown) in [
        ("redis://h", "redis://h:6379/0"),
        ("redis://h/", "redis://h:6379/0"),
        ("redis://h:1/15", "redis://h:1/15"),
        ("redis://:hunter2@h/0", "redis://:***@h:6379/0"),
        ("redis://user:hunter2@h", "redis://user:***@h:6379/0"),
        ("redis://u%40%20:hunter2@h", "redis://u%40%20:***@h:6379/0"),
        ("rediss://10.0.0.1:65535", "rediss://10.0.0.1:65535/0"),
        ("redis://[::1]", "redis://[::1]:6379/0"),
        ("rediss://u:hunter2@[fe80::1]:7/3", "rediss://u:***@[fe80::1]:7/3"),
        ("unix:///run/redis.sock", "redis+unix:///run/redis.sock?db=0"),
        ("redis+unix:///run/a%20b?db=1", "redis+unix:///run/a%20b?db=1"),
        ("unix:///r?pass=hunter2", "redis+unix:///r?db=0&pass=***"),
        ("unix:///r?user=u%26&pass=hunter2&db=2", "redis+unix:///r?db=2&user=u%26&pass=***"),
        ("redis+sentinel://a,b:1,[::1]/main", "redis+sentinel://a:26379,b:1,[::1]:26379/main/0"),
        ("rediss+sentinel://u:hunter2@a/my-main_1.x/2", "rediss+sentinel://u:***@a:26379/my-main_1.x/2"),
        ("redis+cluster://a,b:1,c", "redis+cluster://a:6379,b:1,c:6379"),
        ("rediss+cluster://:hunter2@a/0", "rediss+cluster://:***@a:6379"),
    ] {
        let found = address(text);
        assert_eq!(found.to_string(), shown, "{text}");
        assert_eq!(format!("{found:?}"), format!("Address({shown})"), "{text}");
        assert_eq!(found.is_tls(), text.starts_with("rediss"), "{text}");
        assert_eq!(found.is_cluster(), text.contains("cluster"), "{text}");
    }
}

#[test]
fn users_and_passwords_are_decoded() {
    assert_eq!(credentials("redis://h"), None);
    assert_eq!(credentials("redis://:p:a%40%2f%25@h"), Some((None, "p:a@/%".into())));
    assert_eq!(credentials("redis://%C3%A4:%E2%82%AC@h"), Some((Some("ä".into()), "€".into())));
    assert_eq!(credentials("unix:///s?user=u&pass=a%2B%26"), Some((Some("u".into()), "a+&".into())));
    assert_ne!(address("redis://:a@h"), address("redis://:b@h"));
    assert_eq!(address("redis://:%61@h:6379/0"), address("redis://:a@h"));
}

#[test]
fn everything_else_is_refused_with_its_reason() {
    use AddressError::*;
    for (text, error) in [
        ("", Scheme),
        ("h:6379", Scheme),
        ("redis:h", Scheme),
        ("REDIS://h", Scheme),
        ("valkey://h", Scheme),
        ("http://h", Scheme),
        ("rediss+unix:///s", Scheme),
        ("unix:/s", Scheme),
        ("redis://h ", Character),
        ("redis://h\n", Character),
        ("redis://:pä@h", Character),
        ("redis://:a%@h", Encoding),
        ("redis://:a%4@h", Encoding),
        ("redis://:a%zz@h", Encoding),
        ("redis://:%ff@h", Encoding),
        ("redis://:hunter/2@h", Unencoded),
        ("redis://:hunter?2@h", Unencoded),
        ("redis://:hunter#2@h", Unencoded),
        ("redis://:hunter@2@h", Unencoded),
        ("redis://user@h", Credentials),
        ("redis://user:@h", Credentials),
        ("redis://:@h", Credentials),
        ("redis://@h", Credentials),
        ("unix:///s?user=u", Credentials),
        ("redis://", NoHost),
        ("redis://:6379", NoHost),
        ("redis:///0", NoHost),
        ("redis://:hunter2@", NoHost),
        ("redis+sentinel://a,,b/m", NoHost),
        ("redis+cluster://a,", NoHost),
        ("redis://h%41", Host),
        ("redis://h*", Host),
        ("redis://[::1", Host),
        ("redis://[::1]6379", Host),
        ("redis://[h]", Host),
        ("redis://h:", Port),
        ("redis://h:0", Port),
        ("redis://h:65536", Port),
        ("redis://h:+1", Port),
        ("redis://h:1:2", Port),
        ("redis://::1", NoHost),
        ("redis://fe80::1", Port),
        ("redis://h:port", Port),
        ("redis://a,b", OneHost),
        ("redis://h/x", Database),
        ("redis://h/-1", Database),
        ("redis://h/+1", Database),
        ("redis://h/0/", Database),
        ("redis://h/2147483648", Database),
        ("unix:///s?db=x", Database),
        ("redis+sentinel://h/m/x", Database),
        ("redis+sentinel://h", Master),
        ("redis+sentinel://h/", Master),
        ("redis+sentinel://h//0", Master),
        ("redis+sentinel://h/a%20b", Master),
        ("redis+cluster://h/1", ClusterDatabase),
        ("redis+cluster://h/00", ClusterDatabase),
        ("redis://h?protocol=resp3", Query),
        ("redis://h/0?", Query),
        ("redis+cluster://h?x", Query),
        ("unix:///s?", Parameter),
        ("unix:///s?db", Parameter),
        ("unix:///s?db=", Parameter),
        ("unix:///s?db=1&db=1", Parameter),
        ("unix:///s?name=x", Parameter),
        ("unix:///s?pass=a+b", Parameter),
        ("rediss://h/#insecure", Fragment),
        ("unix:///s#x", Fragment),
        ("unix://", Path),
        ("unix:///", Path),
        ("unix://s", Path),
        ("unix://h/s", Path),
        ("unix:///s%00", Path),
    ] {
        assert_eq!(text.parse::<Address>().err(), Some(error), "{text}");
    }
    let long = format!("unix:///{}", "x".repeat(MAX_SOCKET_PATH));
    assert_eq!(long.parse::<Address>(), Err(Path));
    assert_eq!(format!("redis://{}", "h".repeat(254)).parse::<Address>(), Err(Host));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_judged(text in "\\PC{0,40}", form in 0..8usize) {
        let schemes = ["", "redis://", "rediss://", "unix://", "redis+unix:///", "redis+sentinel://", "redis+cluster://", "redis://u:"];
        let _ = format!("{}{text}", schemes[form]).parse::<Address>();
    }

    /// Whatever else is wrong with the URL. No other part of these, and no sentence, has an uppercase Q, X or Z.
    #[test]
    fn a_password_never_gets_out(
        password in "[QXZ]{4,12}[/?#@:%+]{0,1}",
        before in "(redis|rediss|redis\\+sentinel|redis\\+cluster|http)://(u|%41|):",
        after in "@?(h|a,b|\\[::1\\]|)(:1|:0|:|)(/|/m|/0|/m/0|)(\\?db=1|#x|)",
    ) {
        let texts = [format!("{before}{password}{after}"), format!("unix:///s?db=1&pass={password}"), password.clone()];
        for text in texts {
            let told = match text.parse::<Address>() {
                Ok(address) => format!("{address} {address:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!told.contains(&password[..4]), "{told}");
        }
    }

    #[test]
    fn what_is_shown_without_a_password_is_the_same_address(
        text in "(rediss?://(h|a-b\\.c|\\[::1\\])(:[1-9][0-9]{0,3})?(/[1-9])?|redis\\+cluster://a,b:7|redis\\+sentinel://a,b/m/3)",
    ) {
        let address = address(&text);
        prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
    }
}

#[test]
fn who_asks_and_how_it_is_spelled_does_not_make_it_other_data() {
    let data = |text: &str| text.parse::<Address>().unwrap().data();
    for same in [
        ["redis://h", "redis://ann:secret@H:6379/0"],
        ["rediss://[::1]", "rediss://:x@[0:0::0:1]:6379/"],
        ["unix:///run/r.sock", "redis+unix:///run/r.sock?db=0&user=ann&pass=secret"],
        ["redis+sentinel://a,b:1/m", "redis+sentinel://:x@b:1,A:26379,a/m/0"],
        ["redis+cluster://a,b", "redis+cluster://ann:x@b,a"],
    ] {
        assert_eq!(data(same[0]), data(same[1]));
        assert!(!data(same[1]).contains("ann") && !data(same[1]).contains("***"), "{}", data(same[1]));
    }
    let others = [
        "redis://h",
        "redis://h/1",
        "redis://h:1",
        "redis://g",
        "rediss://h",
        "redis+cluster://h",
        "redis+sentinel://h/m",
        "redis+sentinel://h/n",
        "redis+sentinel://h/m/1",
        "redis+sentinel://g/m",
        "unix:///h",
        "unix:///h?db=1",
    ];
    let all: std::collections::BTreeSet<String> = others.map(data).into();
    assert_eq!(all.len(), others.len(), "{all:?}");
}
