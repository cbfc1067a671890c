// A client of Headwater: what is generated from its OpenAPI document, and the loops that nobody should have to write.
export { Park, type ConsumeOptions, type Handler } from './consuming.ts'
export { Closed, Conflict, HeadwaterError, Refused, Unavailable } from './errors.ts'
export { Headwater, type Decide, type Followed, type FollowOptions, type HeadwaterOptions } from './service.ts'
export type { Credential } from './transport.ts'
export * as api from './generated/index.ts'
export type { AggregatedMessage, AppendResult, Message, NewMessage, Problem, SubscriptionDefinition } from './generated/types.gen.ts'
