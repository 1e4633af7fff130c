//! `[[floating_ip]]`.

use super::decode::Notes;
use super::nodes::{Nodes, unusable};
use super::problem::Problem;
use super::section::{At, Reader, read_tables};
use super::types::FloatingIp;
use super::value::{Complaint, device, string, text};
use std::net::{IpAddr, Ipv4Addr};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most floating IPs: each is announced in every burst.
const LIMIT: usize = 64;

/// Decodes all of them; those with errors are reported and left out.
pub(super) fn decode(root: &DeTable<'_>, nodes: &Nodes, notes: &mut Notes) -> Vec<FloatingIp> {
    let readers = read_tables(root, "floating_ip", "floating_ip", &mut notes.errors);
    if let Some(reader) = readers.get(LIMIT) {
        notes.errors.push(Problem::new(
            reader.span.clone(),
            format!("more than {LIMIT} floating IPs"),
        ));
    }
    let mut list: Vec<FloatingIp> = Vec::new();
    for reader in readers.iter().take(LIMIT) {
        let Some((floating, at)) = decode_one(reader, notes) else {
            continue;
        };
        let report = |message: String, notes: &mut Notes| {
            notes.errors.push(Problem::new(at.span.clone(), message))
        };
        if list.iter().any(|other| other.address == floating.address) {
            report(format!("two floating IPs {}", floating.address), notes);
        }
        if nodes.has_address(floating.address) {
            report(
                format!(
                    "{} is a node's own address on a link: it cannot float",
                    floating.address
                ),
                notes,
            );
        }
        list.push(floating);
    }
    list
}

fn decode_one(reader: &Reader<'_>, notes: &mut Notes) -> Option<(FloatingIp, At<(IpAddr, u8)>)> {
    let errors = &mut notes.errors;
    let at = reader.get("address", address_with_prefix, errors);
    let device = reader.get("device", device, errors);
    let label = reader.optional("label", string, errors);
    if let (Some(label), Some(at), Some(device)) = (&label, &at, &device)
        && let Some(why) = bad_label(&label.value, at.value.0, &device.value)
    {
        errors.push(Problem::new(
            label.span.clone(),
            format!("`label` {why}, found \"{}\"", label.value.escape_debug()),
        ));
    }
    if reader.given("label").is_some() && label.is_none() {
        return None;
    }
    let at = at?;
    let floating = FloatingIp {
        address: at.value.0,
        prefix: at.value.1,
        device: device?.value,
        label: label.map(|l| l.value),
    };
    Some((floating, at))
}

fn bad_label(label: &str, address: IpAddr, device: &str) -> Option<String> {
    if address.is_ipv6() {
        return Some("has no meaning for an IPv6 address".to_owned());
    }
    if label.len() > 15 {
        return Some(format!("has {} bytes and may have 15", label.len()));
    }
    // The kernel takes what follows the device's name after a colon.
    match label.strip_prefix(device) {
        Some("") => None,
        Some(rest) if rest.starts_with(':') && !rest.contains(char::is_whitespace) => None,
        _ => Some(format!(
            "must begin with the device and a colon, such as {device}:1"
        )),
    }
}

fn address_with_prefix(value: &Spanned<DeValue<'_>>) -> Result<(IpAddr, u8), Complaint> {
    let text = text(value)?;
    let form = || Complaint::new("must be an IP address with its prefix length");
    let Some((address, prefix)) = text.split_once('/') else {
        let hint = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("for example \"{text}/24\""),
            Ok(IpAddr::V6(_)) => format!("for example \"{text}/64\""),
            Err(_) => "for example \"192.0.2.74/24\"".to_owned(),
        };
        return Err(form().hint(hint));
    };
    let address: IpAddr = address.parse().map_err(|_| form())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u8 = prefix.parse().map_err(|_| form())?;
    if prefix == 0 || prefix > longest {
        return Err(Complaint::new(format!(
            "must have a prefix length from 1 to {longest}"
        )));
    }
    if let Some(what) = unusable(address) {
        return Err(Complaint::new(format!("cannot be {what}")));
    }
    if address.is_loopback() {
        return Err(Complaint::new("cannot be a loopback address"));
    }
    if let IpAddr::V4(v4) = address
        && let Some(what) = edge_of_network(v4, prefix)
    {
        return Err(Complaint::new(format!(
            "is the {what} address of its network"
        )));
    }
    Ok((address, prefix))
}

/// RFC 950, RFC 3021: the first and the last address of a network are no machine's, unless it has two addresses only.
fn edge_of_network(address: Ipv4Addr, prefix: u8) -> Option<&'static str> {
    if prefix >= 31 {
        return None;
    }
    let host = u32::MAX >> prefix;
    match u32::from(address) & host {
        0 => Some("network"),
        bits if bits == host => Some("broadcast"),
        _ => None,
    }
}
