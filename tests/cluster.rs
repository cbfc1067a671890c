//! Many instances on one database: a balancer in front, restarts one after another, versions side by side.

mod draining;
mod roll_out;
mod rolling;
