package requestid

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestValid(t *testing.T) {
	for id, want := range map[string]bool{
		"": false, "a": true, "4f1d0a7c2b9e": true, "A-b_c.9": true, strings.Repeat("x", MaxLength): true,
		strings.Repeat("x", MaxLength+1): false, "a b": false, "a\nb": false, `a"b`: false, "a=b": false, "ä": false,
	} {
		if got := IsValid(id); got != want {
			t.Errorf("IsValid(%q) = %t", id, got)
		}
	}
}

func TestNewIDsDiffer(t *testing.T) {
	a, b := New(), New()
	if a == b || len(a) != 12 || !IsValid(a) {
		t.Fatal(a, b)
	}
}

// A server keeps a valid ID of the caller, and replaces every other one.
func TestReceive(t *testing.T) {
	for header, kept := range map[string]bool{"deploy-17": true, "": false, "a b": false, strings.Repeat("x", 65): false} {
		got := Of(Receive(t.Context(), http.Header{Header: {header}}))
		if (got == header) != kept || !IsValid(got) {
			t.Errorf("%q became %q", header, got)
		}
	}
}

func TestHeaderAndLog(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	h := http.Header{}
	SetHeader(t.Context(), h)
	Log(t.Context(), log).Info("background")
	if len(h) > 0 || strings.Contains(out.String(), Field+"=") {
		t.Fatal(h, out.String())
	}
	ctx := With(t.Context(), "deploy-17")
	if With(ctx, "a b") != ctx || With(ctx, "") != ctx {
		t.Fatal("an invalid ID replaced a valid one")
	}
	if Of(Without(ctx)) != "" {
		t.Fatal("background work has an ID")
	}
	SetHeader(ctx, h)
	Log(ctx, log).Info("request")
	if h.Get(Header) != "deploy-17" || !strings.Contains(out.String(), "request=deploy-17") {
		t.Fatal(h, out.String())
	}
}

// The caller of a request is passed on with the ID. Background work has none, and an invalid name is not sent.
func TestBy(t *testing.T) {
	ctx := WithBy(With(t.Context(), "deploy-17"), "root (uid 0)")
	copied := Copy(t.Context(), ctx)
	if By(copied) != "root (uid 0)" || Of(copied) != "deploy-17" || By(Without(ctx)) != "" || By(t.Context()) != "" {
		t.Error(By(copied), Of(copied), By(Without(ctx)))
	}
	for by, want := range map[string]bool{
		"root (uid 0)": true, "": false, " root": false, "a\nb": false, "\x1b[2J": false, "ä": false,
		strings.Repeat("x", MaxBy): true, strings.Repeat("x", MaxBy+1): false,
	} {
		h := http.Header{}
		SetBy(WithBy(t.Context(), by), h)
		if IsValidBy(by) != want || (h.Get(HeaderBy) == by) != (want || by == "") {
			t.Errorf("%q: valid %t, sent as %q", by, IsValidBy(by), h.Get(HeaderBy))
		}
	}
}
