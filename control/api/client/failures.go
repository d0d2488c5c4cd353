package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// maxProblem is how much of a refusal the client reads.
const maxProblem = 64 << 10

// isProblem reports whether an answer has a problem as its body.
func isProblem(resp *http.Response) bool {
	typ, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return typ == wire.ProblemType
}

// refused returns the error for an answer with an error status or a problem.
func (s *remote) refused(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var p wire.Problem
	if err == nil && isProblem(resp) && json.Unmarshal(text, &p) == nil && p.Code != "" {
		return p.Err()
	}
	kind := dataset.ErrInternal
	if resp.StatusCode >= http.StatusInternalServerError {
		kind = dataset.ErrUnavailable // a proxy in front of a server that is unreachable
	}
	return dataset.Errorf(kind, "%s responded with %s, unlike drover (is it drover, or a proxy? set --api or "+
		"DROVER_API)", s.endpoint, resp.Status)
}

// neverSent reports whether the server cannot have carried out the request: there was no connection, or one side
// refused the certificate of the other.
func neverSent(err error) bool {
	var op *net.OpError
	var alert tls.AlertError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &alert) || errors.Is(err, dataset.ErrForbidden)
}

// brokenOffError is the cause of a failed request whose connection broke. A server that is running may have
// closed the connection because it was idle.
type brokenOffError struct{ error }

func (e brokenOffError) Unwrap() error { return e.error }

func connectionBroke(err error) bool {
	var broken brokenOffError
	return errors.As(err, &broken) && !errors.Is(err, errSilent) && !neverSent(err)
}

// errSilent is the cause of a failed request that one of several servers did not answer in time.
var errSilent = errors.New("no answer in time")

// failed returns the error for a request without an answer, or with an incomplete one.
func (s *remote) failed(ctx context.Context, k call, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", k.method, k.path, ctx.Err())
	}
	hint := "see systemctl status 'drover*' or run drover serve" + s.where()
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = "you must be root or a member of the group drover"
	case errors.Is(err, dataset.ErrForbidden):
		// The error already says what to do, so add no hint.
		return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w", s.endpoint, err)
	case strings.HasPrefix(s.base, "https:"):
		hint = "see systemctl status drover-control on that host"
	case s.controlSocket() != "":
		hint = "this host runs only control: --api " + s.controlSocket()
	}
	return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w (%s)", s.endpoint, shorten(err), hint)
}

// shorten returns the error of a failed connection without the address, which the message has already.
func shorten(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" && op.Err != nil {
		return dialError{err, strings.TrimPrefix(op.Err.Error(), "connect: ")}
	}
	return err
}

// dialError is the error of a failed connection with a shorter text.
type dialError struct {
	error
	text string
}

func (e dialError) Error() string { return e.text }

func (e dialError) Unwrap() error { return e.error }

// defaultSocket is where an agent or drover serve listens, unless it was started with another folder.
const defaultSocket = "/run/drover/drover.sock"

// where says which other address may be right for a server that is unreachable.
func (s *remote) where() string {
	path, local := strings.CutPrefix(s.endpoint, "unix://")
	_, err := os.Stat(defaultSocket)
	switch {
	case !local:
		return " on that host, or set --api"
	case path != defaultSocket && err == nil:
		return ", or omit --api and DROVER_API"
	}
	return ", or set --api"
}

// controlSocket returns the address of the control replica of this host if its socket is in the same folder as
// the socket that did not answer. Otherwise it returns "".
func (s *remote) controlSocket() string {
	path, local := strings.CutPrefix(s.endpoint, "unix://")
	beside := filepath.Join(filepath.Dir(path), "control.sock")
	if _, err := os.Stat(beside); !local || beside == path || err != nil {
		return ""
	}
	return "unix://" + beside
}

// noneAnsweredError returns the error for a request that none of several servers answered. An error that a
// reachable server reported comes before the others.
func noneAnsweredError(list []error) error {
	lines := make([]string, 0, len(list))
	for _, err := range list {
		line := dataset.OneLine(err)
		if strings.HasPrefix(line, "cannot reach drover at ") {
			lines = append(lines, strings.TrimPrefix(line, "cannot reach drover at "))
			continue
		}
		return err
	}
	return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at any of %d addresses: %s", len(list),
		strings.Join(lines, "; "))
}
