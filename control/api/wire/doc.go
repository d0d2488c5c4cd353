// Package wire defines the representations in HTTP that both sides of the API use besides the JSON of the types in
// package api. Packages client and server call it, package openapi describes Problem, and it has no state. A new
// header, trailer or media type of the API belongs here. It has:
//
//   - errors as problem details (Problem)
//   - events as server-sent events (EncodeEvent, ReadEvents)
//   - the end of an archive in trailers (SetTrailers, StreamError)
//   - the version of the program in User-Agent and Server (ProductName, VersionIn)
//   - the age of an answer that an agent gave without control (KnownAt)
//   - the preference for summaries (Minimal)
//   - bounded waits (ParseWait, FormatWait) and strict JSON (DecodeStrict)
package wire
