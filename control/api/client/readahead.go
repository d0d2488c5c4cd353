package client

import (
	"bytes"
	"context"
	"encoding/json"
)

type readAheadKey struct{}

// WithReadAhead returns a context for a call that reads a page of a list. The call passes the cursor of the next page
// to f before it decodes the items, and returns after f has returned. So the caller can already ask for the next page.
// f is not called for the last page. It may be called twice if the call is repeated.
func WithReadAhead(ctx context.Context, f func(after string)) context.Context {
	return context.WithValue(ctx, readAheadKey{}, f)
}

// readAhead calls the function of WithReadAhead, if there is one, for the answer to a call.
func readAhead(ctx context.Context, answer []byte) {
	f, ok := ctx.Value(readAheadKey{}).(func(string))
	if !ok {
		return
	}
	if next := nextCursor(answer); next != "" {
		f(next)
	}
}

// nextCursor returns the cursor of the next page from the end of the JSON of a page, without parsing the items. It
// returns "" if there is none, or if the answer has another form.
func nextCursor(page []byte) string {
	page, ok := bytes.CutSuffix(bytes.TrimSpace(page), []byte("}"))
	const key = `],"next":` // cannot be part of a string, because a quote in a string is escaped
	at := bytes.LastIndex(page, []byte(key))
	if !ok || at < 0 {
		return ""
	}
	var next string
	if json.Unmarshal(page[at+len(key):], &next) != nil {
		return ""
	}
	return next
}
