//! `[[monitor]]`.

use super::decode::{Notes, millis, seconds};
use super::problem::Problem;
use super::section::{At, Reader, read_tables};
use super::time::duration;
use super::types::{Check, CountsFor, FloatingIp, Monitor};
use super::value::{Complaint, address, argv, choice, name, number, port, text};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most monitors: each is a task and a line of the status.
const LIMIT: usize = 64;

/// How a monitor asks, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Ping,
    Http,
    Tcp,
    Command,
}

const METHODS: &[(&str, Method)] = &[
    ("ping", Method::Ping),
    ("http", Method::Http),
    ("tcp", Method::Tcp),
    ("command", Method::Command),
];

/// Keys that only some methods have.
const ONLY_FOR: &[(&str, &[Method])] = &[
    ("address", &[Method::Ping, Method::Http, Method::Tcp]),
    ("port", &[Method::Http, Method::Tcp]),
    ("path", &[Method::Http]),
    ("host", &[Method::Http]),
    ("status", &[Method::Http]),
    ("command", &[Method::Command]),
];

/// Decodes all of them; those with errors are reported and left out.
pub(super) fn decode(
    root: &DeTable<'_>,
    floating: &[FloatingIp],
    notes: &mut Notes,
) -> Vec<Monitor> {
    let readers = read_tables(root, "monitor", "monitor", &mut notes.errors);
    if let Some(reader) = readers.get(LIMIT) {
        notes.errors.push(Problem::new(
            reader.span.clone(),
            format!("more than {LIMIT} monitors"),
        ));
    }
    let mut names: Vec<String> = Vec::new();
    let mut list = Vec::new();
    for reader in &readers {
        let name = reader.get("name", name, &mut notes.errors);
        if let Some(name) = &name {
            if names.contains(&name.value) {
                notes.errors.push(Problem::new(
                    name.span.clone(),
                    format!("two monitors named `{}`", name.value),
                ));
            }
            names.push(name.value.clone());
        }
        list.extend(decode_one(reader, name, floating, notes));
    }
    list
}

fn decode_one(
    reader: &Reader<'_>,
    name: Option<At<String>>,
    floating: &[FloatingIp],
    notes: &mut Notes,
) -> Option<Monitor> {
    const COUNTS_FOR: &[(&str, CountsFor)] = &[
        ("service", CountsFor::Service),
        ("network", CountsFor::Network),
    ];
    let method = reader.get("check", choice(METHODS), &mut notes.errors);
    let counts_for = reader.get("counts_for", choice(COUNTS_FOR), &mut notes.errors);
    let check = method.and_then(|method| {
        report_useless_keys(reader, method.value, notes);
        decode_check(reader, method.value, notes)
    });
    let errors = &mut notes.errors;
    let interval = reader.get("interval", duration(millis(100)..=seconds(3600)), errors);
    let timeout = reader.get("timeout", duration(millis(10)..=seconds(60)), errors);
    let fall = reader.get("fall", number(1..=100), errors);
    let rise = reader.get("rise", number(1..=100), errors);
    let (check, counts_for) = (check?, counts_for?);
    warn_of_place(reader, &check, counts_for.value, floating, notes);
    Some(Monitor {
        name: name?.value,
        check,
        counts_for: counts_for.value,
        interval: interval?.value,
        timeout: timeout?.value,
        fall: small(fall?.value),
        rise: small(rise?.value),
    })
}

/// A number that was checked to be at most 100.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn word(method: Method) -> &'static str {
    // Each method stands in the table.
    METHODS
        .iter()
        .find(|(_, m)| *m == method)
        .map_or("?", |(w, _)| w)
}

fn report_useless_keys(reader: &Reader<'_>, method: Method, notes: &mut Notes) {
    for (key, methods) in ONLY_FOR {
        if let Some(span) = reader.given(key)
            && !methods.contains(&method)
        {
            let message = format!("`{key}` has no meaning for check = \"{}\"", word(method));
            let for_these: Vec<_> = methods
                .iter()
                .map(|m| format!("\"{}\"", word(*m)))
                .collect();
            notes.errors.push(
                Problem::new(span, message).hint(format!("it is for {}", for_these.join(", "))),
            );
        }
    }
}

fn decode_check(reader: &Reader<'_>, method: Method, notes: &mut Notes) -> Option<Check> {
    let errors = &mut notes.errors;
    let missing = |key: &str| {
        let message = format!("check = \"{}\" needs `{key}`", word(method));
        Problem::absent(reader.span.clone(), message)
    };
    if method == Method::Command {
        if reader.given("command").is_none() {
            errors.push(missing("command"));
        }
        let argv = reader.optional("command", argv, errors)?.value;
        return Some(Check::Command { argv });
    }
    if reader.given("address").is_none() {
        errors.push(missing("address"));
    }
    if method == Method::Tcp && reader.given("port").is_none() {
        errors.push(missing("port"));
    }
    let address = reader.optional("address", address, errors);
    let port = reader.optional("port", port, errors).map(|p| p.value);
    let path = reader.optional("path", http_path, errors).map(|p| p.value);
    let host = reader.optional("host", http_host, errors).map(|h| h.value);
    let status = reader
        .optional("status", http_status, errors)
        .map(|s| s.value);
    let address = address?.value;
    match method {
        Method::Ping => Some(Check::Ping { address }),
        Method::Tcp => Some(Check::Tcp {
            address,
            port: port?,
        }),
        Method::Http => Some(Check::Http {
            address,
            port: port.unwrap_or(80),
            path: path.unwrap_or_else(|| "/".to_owned()),
            host: host.unwrap_or_else(|| default_host(address)),
            status: status.unwrap_or(200..=399),
        }),
        Method::Command => None,
    }
}

/// RFC 9110, 7.2 and RFC 3986, 3.2.2: an IPv6 address stands in brackets.
pub(super) fn default_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn http_path(value: &Spanned<DeValue<'_>>) -> Result<String, Complaint> {
    let text = text(value)?;
    if !text.starts_with('/') || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Complaint::new(
            "must begin with / and have printable ASCII characters without blanks",
        )
        .hint("escape others as %XX"));
    }
    Ok(text.to_owned())
}

fn http_host(value: &Spanned<DeValue<'_>>) -> Result<String, Complaint> {
    let text = text(value)?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b);
    if !text.bytes().all(good) {
        return Err(Complaint::new("must be a host name, with :port if needed"));
    }
    Ok(text.to_owned())
}

fn http_status(value: &Spanned<DeValue<'_>>) -> Result<RangeInclusive<u16>, Complaint> {
    let wrong =
        || Complaint::new("must be a status code from 100 to 599, or two of them as \"200-399\"");
    let code = |text: &str| {
        text.trim()
            .parse::<u16>()
            .ok()
            .filter(|c| (100..=599).contains(c))
            .ok_or_else(wrong)
    };
    if value.get_ref().is_integer() {
        let code = number(100..=599)(value).map_err(|_| wrong())?;
        let code = u16::try_from(code).map_err(|_| wrong())?;
        return Ok(code..=code);
    }
    let text = value.get_ref().as_str().ok_or_else(wrong)?;
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (code(low)?, code(high)?);
    if low <= high {
        Ok(low..=high)
    } else {
        Err(wrong())
    }
}

fn warn_of_place(
    reader: &Reader<'_>,
    check: &Check,
    counts_for: CountsFor,
    floating: &[FloatingIp],
    notes: &mut Notes,
) {
    let address = match check {
        Check::Ping { address } | Check::Http { address, .. } | Check::Tcp { address, .. } => {
            *address
        }
        Check::Command { .. } => return,
    };
    let floats = floating.iter().any(|f| f.address == address);
    let problem = match counts_for {
        CountsFor::Service if !floats => Problem::new(
            reader.span_of("address"),
            format!("a service is asked at {address}, which is not a floating IP"),
        )
        .hint("what clients use is the floating IP; ask there"),
        CountsFor::Network if floats => Problem::new(
            reader.span_of("address"),
            format!("the network is judged by {address}, which is a floating IP"),
        )
        .hint("ask something that does not move, such as the gateway"),
        _ => return,
    };
    notes.warnings.push(problem);
}
