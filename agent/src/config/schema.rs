//! Every key of the configuration file with its meaning and its default: the one list from which the decoder takes
//! defaults and knows unknown keys, and from which `etc/reference.toml` and the tables of the manual are written.

mod pair;
mod work;

/// One kind of table.
#[derive(Debug)]
pub struct Section {
    /// Where it stands: `pair`, `node.link`.
    pub path: &'static str,
    /// `[[path]]` instead of `[path]`.
    pub repeated: bool,
    /// What it describes.
    pub help: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Name.
    pub name: &'static str,
    /// What kind of value, for people.
    pub kind: &'static str,
    /// Whether it must be there.
    pub need: Need,
    /// What it means.
    pub help: &'static str,
}

/// What becomes of an absent key. Texts are TOML values in canonical form.
#[derive(Debug)]
pub enum Need {
    /// An error. The examples are for the reference, one for each table of its kind, the last one repeated.
    Required(&'static [&'static str]),
    /// This value.
    DefaultsTo(&'static str),
    /// Nothing, or what the help says. The text is an example.
    Optional(&'static str),
    /// As `Optional`, and the reference shows the example in use, because what stands beside it needs or allows it.
    Depends(&'static str),
    /// Nothing. It is a table below this one.
    Below,
}

impl Need {
    /// The default or the example that the reference shows at the table of that number. `None`: tables below it.
    pub fn text(&self, number: usize) -> Option<&'static str> {
        match self {
            Self::Required(examples) => examples.get(number).or(examples.last()).copied(),
            Self::Below => None,
            Self::DefaultsTo(text) | Self::Depends(text) | Self::Optional(text) => Some(text),
        }
    }
}

impl Section {
    /// Its header as in a file.
    pub fn header(&self) -> String {
        if self.repeated {
            format!("[[{}]]", self.path)
        } else {
            format!("[{}]", self.path)
        }
    }

    /// The key of that name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|k| k.name == name)
    }
}

/// The section of that path.
///
/// # Panics
/// If there is none: paths are written in the decoder only, and a test decodes each of them.
pub fn section(path: &str) -> &'static Section {
    SECTIONS
        .iter()
        .find(|s| s.path == path)
        .unwrap_or_else(|| panic!("no section {path} in the schema"))
}

const fn key(name: &'static str, kind: &'static str, need: Need, help: &'static str) -> Key {
    Key {
        name,
        kind,
        need,
        help,
    }
}

/// All sections, in the order of the reference.
pub static SECTIONS: &[Section] = &[
    pair::PAIR,
    pair::AGENT,
    pair::NODE,
    pair::LINK,
    pair::FLOATING_IP,
    work::TREE,
    work::FREEZE,
    work::LIMIT,
    pair::REPLICA,
    work::MONITOR,
    work::SERVICE,
    work::HOOK,
    work::MAIL,
];
