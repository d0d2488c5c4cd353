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

// maxProblem bounds what of a refusal is read.
const maxProblem = 64 << 10

// refused is the error that a bad answer tells of.
func (s *remote) refused(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var p wire.Problem
	typ, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err == nil && typ == wire.ProblemType && json.Unmarshal(text, &p) == nil && p.Code != "" {
		return p.Err()
	}
	kind := dataset.ErrInternal
	if resp.StatusCode >= http.StatusInternalServerError {
		kind = dataset.ErrUnavailable // a proxy in front of a server that is away
	}
	return dataset.Errorf(kind, "%s answered %s, which is not drover's way (is it drover, or a proxy? set "+
		"--api or DROVER_API)", s.endpoint, resp.Status)
}

// unsent reports whether a request surely was not carried out: there was no
// connection, or one side refused who the other is.
func unsent(err error) bool {
	var op *net.OpError
	var alert tls.AlertError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &alert) || errors.Is(err, dataset.ErrForbidden)
}

// brokenOffError is the cause of a request whose connection broke: one that was idle may have been closed
// by a server that is there.
type brokenOffError struct{ error }

func (e brokenOffError) Unwrap() error { return e.error }

func brokeOff(err error) bool {
	var broken brokenOffError
	return errors.As(err, &broken) && !errors.Is(err, errSilent) && !unsent(err)
}

// errSilent is the cause of a request that one of several servers did not answer.
var errSilent = errors.New("no answer in time")

// failed is the error of a request that got no answer, or half of one.
func (s *remote) failed(ctx context.Context, k call, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", k.method, k.path, ctx.Err())
	}
	hint := "is `drover serve`, or this host's agent, running? set --api or DROVER_API"
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = "want root, or a member of the group drover"
	case errors.Is(err, dataset.ErrForbidden):
		// it says what would do
		return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w", s.endpoint, err)
	case strings.HasPrefix(s.base, "https:"):
		hint = "is `drover control` running there, and of this cluster?"
	case s.besideControl() != "":
		hint = "on this host control alone answers: set --api or DROVER_API to " + s.besideControl()
	}
	return dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover at %s: %w (%s)", s.endpoint, err, hint)
}

// besideControl is the address of a control replica of this host, where there is one in the
// folder of a socket that did not answer.
func (s *remote) besideControl() string {
	path, local := strings.CutPrefix(s.endpoint, "unix://")
	beside := filepath.Join(filepath.Dir(path), "control.sock")
	if _, err := os.Stat(beside); !local || beside == path || err != nil {
		return ""
	}
	return "unix://" + beside
}

// allAway is why none of several servers answered: what one that was reached says
// comes first.
func allAway(list []error) error {
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
