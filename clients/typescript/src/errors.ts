// What goes wrong.
import type { NewMessage, Problem } from './generated/types.gen.ts'

/** Anything below. */
export class HeadwaterError extends Error {
  override name = this.constructor.name
}

/**
 * The service did not answer in time, or only that it cannot now. An append may have been written: `messages`, which have
 * their ids, are written once if they are sent again.
 */
export class Unavailable extends HeadwaterError {
  messages: NewMessage[] = []
}

/** The event stream has ended for good: another consumer has joined under the same name. */
export class Closed extends HeadwaterError {}

/** The service has refused, and would again: `problem` says why. */
export class Refused extends HeadwaterError {
  readonly problem: Problem

  constructor(problem: Problem) {
    super(`${problem.title}: ${problem.detail}`)
    this.problem = problem
  }

  /** `/problems/…`. */
  get type(): Problem['type'] {
    return this.problem.type
  }
}

/** The stream has another version than the expected one: `problem.current_version`. */
export class Conflict extends Refused {}
