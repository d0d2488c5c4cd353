package consul

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// errNoAnswer is the cause with which the context of a call ends after CallTime.
var errNoAnswer = errors.New("no answer")

// failed converts the error of a call of Consul into one line with the request, the problem and the remedy. ctx is the
// context of the call. Errors of this package are returned unchanged.
func (e *endpoint) failed(ctx context.Context, what string, err error) error {
	var kind *dataset.Kind
	switch {
	case e.ctx.Err() != nil:
		return store.ErrClosed
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errNoAnswer):
		return fmt.Errorf("consul: %s: %w", what, ctx.Err())
	case errors.As(err, &kind):
		return err
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, errNoAnswer)):
		return dataset.Errorf(dataset.ErrUnavailable,
			"consul: %s: no answer within %s from %s (are most of its servers up, and is it overloaded?)", what,
			e.opts.CallTime, e.addresses())
	}
	var status *statusError
	if errors.As(err, &status) {
		return e.status(what, status)
	}
	return dataset.Errorf(dataset.ErrUnavailable, "consul: %s: %w", what, e.unreachableError(err))
}

func (e *endpoint) addresses() string { return strings.Join(e.opts.Addresses, ", ") }

// status explains an answer with an error status.
func (e *endpoint) status(what string, answer *statusError) error {
	text := e.sanitize(answer.line())
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	unavailable := func(format string, args ...any) error {
		return dataset.Errorf(dataset.ErrUnavailable, "consul: %s: %s", what, fmt.Sprintf(format, args...))
	}
	switch {
	case isACL(text):
		return e.lacksRight(text)
	case answer.code == http.StatusForbidden:
		return dataset.Errorf(dataset.ErrForbidden,
			"consul: %s: %s does not know the token: it was deleted, or is another cluster's (%s)", what,
			answer.host, text)
	case answer.code == http.StatusRequestEntityTooLarge:
		return fmt.Errorf("consul: %s: %w: %s (drover needs the defaults of txn_max_req_len and kv_max_value_size)",
			what, store.ErrTooLarge, text)
	case answer.code == http.StatusTooManyRequests:
		return unavailable("%s refuses more requests: %s (see http_max_conns_per_client and request_limits)",
			answer.host, text)
	case has("No cluster leader", "not the leader", "leadership lost", "leadership transfer",
		"not ready to serve consistent reads"):
		return unavailable("no leader: %s (%s)", leaderHint, text)
	case has("No known Consul servers", "rpc error getting client", "rpc error making call"):
		return unavailable("%s reaches no server: %s", answer.host, text)
	case has("HTTP request to an HTTPS server"):
		return unavailable("%s wants https", answer.host)
	}
	return unavailable("%s answered with status %d: %s", answer.host, answer.code, text)
}

const leaderHint = "too few of its servers are up, or they are just electing one (consul operator raft list-peers)"

// unreachableError explains a request without an answer. It removes the URL that Go puts before the reason.
func (e *endpoint) unreachableError(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	host := e.addresses()
	var r *reachError
	if errors.As(err, &r) {
		host = r.host
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s has a certificate of an authority that is not trusted here (set ca_file to "+
			"that of Consul's): %w", host, unknown)
	case errors.As(err, &name):
		return fmt.Errorf("%s has a certificate for another name (set server_name, such as server.dc1.consul): %w",
			host, name)
	case errors.As(err, &invalid):
		return fmt.Errorf("%s has a certificate that is not valid (is a clock wrong?): %w", host, invalid)
	case errors.As(err, &alert):
		return fmt.Errorf("%s refused the handshake: %w (does it want a certificate? set cert_file and key_file)",
			host, alert)
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Errorf("%s refused the handshake: %w (does it want a certificate? set cert_file and key_file)",
			host, op.Err)
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%s does not speak https (is it an http address?)", host)
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("%s cannot be reached: %w (is it up, and is the address right?)", host, op.Err)
	case r != nil && r.leaderless:
		return fmt.Errorf("%s gave no answer in time, and has no leader: %s", host, leaderHint)
	case timedOut(err):
		return fmt.Errorf("%s gave no answer in time: is it overloaded, or frozen?", host)
	case r != nil:
		return fmt.Errorf("%s gave no answer: %w", host, r.err)
	}
	return err
}

// isUntrusted reports whether a handshake failed because of certificates.
func isUntrusted(err error) bool {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid)
}

// missingRight matches the missing right of a token in a message of Consul (acl/errors.go).
var missingRight = regexp.MustCompile(`lacks permission '([a-z-]+):([a-z]+)'(?: on "([^"]*)")?`)

func isACL(text string) bool { return strings.Contains(text, "Permission denied") }

// lacksRight returns an error that names the right that the token lacks, and the ACL rule that grants it.
func (e *endpoint) lacksRight(text string) error {
	m := missingRight.FindStringSubmatch(e.sanitize(text))
	if m == nil {
		return dataset.Errorf(dataset.ErrForbidden,
			"consul: the token lacks a right: %s (see the policy in docs/consul.md)", e.sanitize(text))
	}
	rule := map[string]string{
		"key":     fmt.Sprintf(`key_prefix "%s/" { policy = "write" }`, e.opts.Prefix),
		"session": fmt.Sprintf(`session "%s" { policy = "write" }`, e.layout.node),
		"node":    fmt.Sprintf(`node "%s" { policy = "write" }`, e.layout.node),
		"service": fmt.Sprintf(`service "%s" { policy = "write" }`, m[3]),
	}[m[1]]
	if m[1] == "node" && m[3] == e.layout.services {
		rule = fmt.Sprintf(`node "%s" { policy = "write" }`, m[3])
	}
	rule = cmp.Or(rule, "the policy in docs/consul.md")
	on := ""
	if m[3] != "" {
		on = " on " + m[3]
	}
	return dataset.Errorf(dataset.ErrForbidden, "consul: the token lacks %s:%s%s: give its policy %s", m[1], m[2],
		on, rule)
}

func (e *endpoint) unexpectedAnswer(what string) error {
	return dataset.Errorf(dataset.ErrUnavailable, "consul: unexpected answer: %.200s", e.sanitize(what))
}

// sanitize removes the token from a message of Consul, in case Consul repeats it.
func (e *endpoint) sanitize(text string) string {
	if token := e.transport.creds.current(); token != "" {
		text = strings.ReplaceAll(text, token, "(token)")
	}
	return text
}

// line returns the body of an answer as one short line.
func (e *statusError) line() string {
	text := strings.Join(strings.Fields(e.body), " ")
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	if text == "" {
		return "without a word"
	}
	return text
}
