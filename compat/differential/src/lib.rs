//! The differential tester: the same frames go to this broker and to Apache RocketMQ's own, and answers and effects
//! are compared.
//!
//! | module | what it holds |
//! |---|---|
//! | [`catalog`] | what there is to ask, and the states it is asked in: the files in `data/`, read |
//! | [`vary`] | values that fields and members of bodies are given, from nothing but their types |
//! | [`cases`] | the cases made of both, and random sequences from a seed |
//! | [`script`] | the language of cases, and the requests made of it |
//! | [`frame`], [`relaxed`] | frames and fastjson's texts, written and read without any of the broker's code |
//! | [`session`] | one case carried out on several brokers in step |
//! | [`normal`] | what is left of an answer when everything is gone that must differ |
//! | [`compare`] | answers side by side, and the differences that are accepted |
//! | [`run`], [`report`] | many cases at once, and what they showed |
//! | [`record`] | cases with the Java broker's answers, for tests without it |

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "works on real processes in real time"
)]

pub mod cases;
pub mod catalog;
pub mod compare;
pub mod frame;
pub mod normal;
pub mod record;
pub mod relaxed;
pub mod report;
pub mod rng;
pub mod run;
pub mod script;
pub mod session;
pub mod vary;
