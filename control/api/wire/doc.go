// Package wire is how both sides of the API represent things in HTTP, beside the JSON of the types in package api:
//
//   - errors as problem details (Problem)
//   - events as server-sent events (EncodeEvent, ReadEvents)
//   - the end of an archive in trailers (SetTrailers, StreamError)
//   - the version of the program in User-Agent and Server (ProductName, VersionIn)
//   - bounded waits (ParseWait, FormatWait) and strict JSON (DecodeStrict)
package wire
