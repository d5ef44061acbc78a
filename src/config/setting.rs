//! What a setting is to every place that knows it: the file, the flags, their help, the manual
//! and the reference all follow from one declaration (`declare!` in `mod.rs`).

use super::PartialConfig;
use super::detect::{self, Parts};
use crate::text::did_you_mean;

/// One setting, as it is declared.
pub struct Setting {
    /// Its key in the file; after a dot, that of a field in an object.
    pub key: &'static str,
    /// Its flag, if it has one.
    pub flag: Option<Flag>,
    /// What its value is made of.
    pub form: Form,
    /// What it is, as declared.
    pub(super) help: &'static str,
    /// What it is where nobody says: as it is written, or in words.
    pub default: fn() -> String,
    /// Takes a value as it was written, by which it is known to be none.
    pub(super) set: fn(&mut Draft, &str) -> Result<(), String>,
}

/// A setting on the command line.
#[derive(Clone, Copy)]
pub struct Flag {
    /// Without the two dashes.
    pub name: &'static str,
    /// What other programs call it.
    pub aliases: &'static [&'static str],
    /// What the help calls its value.
    pub value: &'static str,
}

impl Flag {
    /// A flag of no other program.
    pub(super) const fn new(name: &'static str, value: &'static str) -> Option<Self> {
        Self::also(name, &[], value)
    }

    /// A flag that others call otherwise.
    pub(super) const fn also(
        name: &'static str,
        aliases: &'static [&'static str],
        value: &'static str,
    ) -> Option<Self> {
        Some(Self {
            name,
            aliases,
            value,
        })
    }
}

/// What the value of a setting is made of, where it is written.
#[derive(Clone, Copy)]
pub enum Form {
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// True or false. A flag whose default is false may stand without a value.
    Switch,
    /// Several texts: in the file a list or one text with commas, as a flag repeatable.
    List,
    /// One of these words, each with what it means.
    Words(&'static [(&'static str, &'static str)]),
    /// Objects; in the file only.
    Nodes,
}

impl Form {
    /// The type in the file, in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "whole number",
            Self::Switch => "true or false",
            Self::List => "list of texts, or text with commas",
            Self::Words(_) => "word",
            Self::Nodes => "list of {name: text, addresses: list, podCIDRs: list}",
        }
    }
}

impl Setting {
    /// What it is, in a line without an end.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// Whether `text` can be its value.
    ///
    /// # Errors
    /// In words, if it cannot.
    pub fn check(&self, text: &str) -> Result<(), String> {
        (self.set)(&mut Draft::default(), text)
    }
}

/// What one place says of the settings while it is read: the file, or the flags.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// What can stand alone.
    pub settings: PartialConfig,
    /// What makes a detector together.
    pub(super) detect: Parts,
}

impl Draft {
    /// Takes one setting, which that place calls `name`.
    ///
    /// # Errors
    /// With the name, if `text` is no value of it.
    pub fn take(&mut self, setting: &Setting, name: &str, text: &str) -> Result<(), String> {
        (setting.set)(self, text).map_err(|e| {
            // A path within the value goes on where the name ends.
            let between = if e.starts_with('[') { "" } else { ": " };
            format!("{name}{between}{e}")
        })
    }

    /// All of it, checked together; `name` is what that place calls a setting.
    ///
    /// # Errors
    /// Naming the settings, if one of them means nothing without another.
    pub fn finish(self, name: impl Fn(&Setting) -> String) -> Result<PartialConfig, String> {
        let mut settings = self.settings;
        if let Some(detect) = detect::chosen(self.detect, name)? {
            settings.detect_local = Some(detect);
        }
        // The switch is for both families, unless the other one says otherwise.
        settings.masq_link_local_ipv6 = settings.masq_link_local_ipv6.or(settings.masq_link_local);
        Ok(settings)
    }
}

/// Says what a word could have been.
pub(super) fn unknown(word: &str, known: &[(&str, &str)]) -> String {
    let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
    let near = did_you_mean(word, words.iter().copied());
    format!("{word:?} is none of {}{near}", words.join(", "))
}

/// Declares a choice: an enum, the word for each of its variants and what it means. The first
/// is the default.
macro_rules! words {
    ($(#[doc = $doc:literal])+ pub enum $name:ident {
        $($(#[doc = $means:literal])+ $variant:ident = $word:literal,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $means])+ $variant,)+ }

        impl $name {
            /// All words with what they mean; the first is the default.
            pub const WORDS: &'static [(&'static str, &'static str)] =
                &[$(($word, concat!($($means),+))),+];
        }

        impl Default for $name {
            fn default() -> Self {
                [$(Self::$variant),+][0]
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::config::setting::unknown(text, Self::WORDS)),
                }
            }
        }
    };
}

/// Declares each setting once: what it means, its type and its default; after `=>` what it is
/// called where users say it, and how it is read. `unset` is for defaults that are no value.
macro_rules! declare {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $type:ty = $default:expr
        $(=> $key:literal $form:expr, $flag:expr, $read:expr $(, unset $unset:literal)?)?;
    )* parts $parts:expr) => {
        /// Everything the user can set.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $type,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        /// What one place says of the settings: a file, or the flags.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct PartialConfig {
            $($(#[doc = $doc])+ pub $name: Option<$type>,)*
        }

        impl PartialConfig {
            /// These settings, and the other's where these are silent.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)* }
            }

            /// These settings, and the defaults where these are silent.
            #[must_use]
            pub fn or_defaults(self) -> Config {
                Config { $($name: self.$name.unwrap_or_else(|| $default),)* }
            }
        }

        /// What each of them is.
        #[allow(dead_code, reason = "those that users do not set have a help too")]
        struct Help { $($name: &'static str,)* }
        const HELP: Help = Help { $($name: concat!($($doc),+),)* };

        /// The settings that stand alone.
        static ALONE: &[Setting] = &[$($(
            Setting {
                key: $key,
                flag: $flag,
                form: $form,
                help: HELP.$name,
                default: || declare!(@default $default $(, $unset)?),
                set: |draft, text| {
                    draft.settings.$name = Some(($read)(text)?);
                    Ok(())
                },
            },
        )?)*];

        /// All settings that users can say, as they are declared.
        pub fn settings() -> impl Iterator<Item = &'static Setting> {
            ALONE.iter().chain($parts)
        }
    };
    (@default $default:expr) => { ($default).to_string() };
    (@default $default:expr, $unset:literal) => { $unset.to_owned() };
}

pub(super) use {declare, words};

#[cfg(test)]
mod tests {
    use crate::config::{Config, settings};

    use super::*;

    #[test]
    fn a_default_that_can_be_written_is_what_is_there_if_it_is_not() {
        let defaults = Config::default();
        let mut read = 0;
        for setting in settings() {
            let mut draft = Draft::default();
            let default = (setting.default)();
            // Those in words are none.
            let words = default.contains(' ') || default == "none";
            if words || draft.take(setting, setting.key, &default).is_err() {
                assert!(words, "{}: {default}", setting.key);
                continue;
            }
            read += 1;
            let settings = draft.finish(|s| s.key.to_owned()).unwrap();
            assert_eq!(settings.or_defaults(), defaults, "{}", setting.key);
        }
        assert!(read > 10, "{read}");
    }

    #[test]
    fn keys_and_flags_are_each_of_one_setting_and_explained() {
        let all: Vec<&Setting> = settings().collect();
        for (i, setting) in all.iter().enumerate() {
            assert!(setting.help().len() > 10, "{}", setting.key);
            assert!(!setting.help().ends_with('.'), "{}", setting.key);
            for other in &all[..i] {
                assert_ne!(setting.key, other.key);
                if let (Some(one), Some(two)) = (setting.flag, other.flag) {
                    assert_ne!(one.name, two.name);
                }
            }
        }
    }
}
