//! Seeds of simulations: those of the service, which has them from here too, and those of the tests.

/// Replays one seed.
pub const SEED_VARIABLE: &str = "HEADWATER_TEST_SEED";
/// How many seeds a simulation tries, instead of as many as take a second or two.
const ROUNDS_VARIABLE: &str = "HEADWATER_TEST_ROUNDS";

/// So many seeds. Each is printed as its turn comes: the last one printed is the one that failed.
pub fn seeds(rounds: u64) -> impl Iterator<Item = u64> {
    let read = |variable: &str| std::env::var(variable).ok().map(|number| number.parse::<u64>().expect("a number"));
    let given = read(SEED_VARIABLE);
    let rounds = if given.is_some() { 1 } else { read(ROUNDS_VARIABLE).unwrap_or(rounds) };
    (0..rounds).map(move |_| {
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        println!("again with: {SEED_VARIABLE}={seed}");
        seed
    })
}
