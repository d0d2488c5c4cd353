// Package failurelog decides at which level a failure is logged. Each failure is logged once at level info or above.
// Who logs it depends on what failed:
//
//   - An operation: the agent that carries it out (agent/operation.Runner).
//   - Any other request: the component that answers it, which is package plugin for the engine and control/api/server
//     for a user. Package cmd/drover/internal/daemon writes the log lines of the plugin.
//   - Work that continues after its requester has stopped waiting: package agent.
//
// A component that only passes the error on logs it at level debug. CONTRIBUTING.md has these rules too. The package
// has no state.
package failurelog

import (
	"context"
	"errors"
	"net/http"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/dataset"
)

// loggedError is an error that is in the log already.
type loggedError struct{ error }

func (e loggedError) Unwrap() error { return e.error }

// MarkLogged returns err marked as an error that is in the log, of this host or of the host that reported it. LevelOf
// returns debug for it. Text and kind do not change. MarkLogged(nil) is nil.
func MarkLogged(err error) error {
	if err == nil || isLogged(err) {
		return err
	}
	return loggedError{err}
}

func isLogged(err error) bool { return errors.As(err, new(loggedError)) }

// LevelOf returns the level at which the failure of a request is logged:
//
//   - debug: there is no error, or the error is in the log already.
//   - info: the request was refused, its work continues, or it ended with context.Canceled, because its caller has gone
//     or this process stops.
//   - warning: a problem that an operator has to watch, such as a full or unreachable pool or a time limit that passed.
//   - error: everything else.
func LevelOf(err error) logrus.Level {
	kind := dataset.KindOf(err)
	switch {
	case err == nil, isLogged(err):
		return logrus.DebugLevel
	case kind == dataset.ErrPending, kind.HTTP < http.StatusInternalServerError:
		return logrus.InfoLevel
	case kind == dataset.ErrInternal && errors.Is(err, context.Canceled): // the caller hung up, or the process stops
		return logrus.InfoLevel
	case kind == dataset.ErrNoSpace, kind == dataset.ErrOffline, kind == dataset.ErrUnavailable,
		kind == dataset.ErrInternal && errors.Is(err, context.DeadlineExceeded):
		return logrus.WarnLevel
	}
	return logrus.ErrorLevel
}

// Outcome returns what a log line says about the end of a request: "is done", "was refused", "continues" or "failed".
func Outcome(err error) string {
	kind := dataset.KindOf(err)
	switch {
	case err == nil:
		return "is done"
	case kind == dataset.ErrPending:
		return "continues"
	case kind.HTTP < http.StatusInternalServerError:
		return "was refused"
	}
	return "failed"
}

// LevelOfOperation returns the level at which the failure of an operation is logged. Control accepted the operation, so
// its failure is at least a warning, unless it is in the log already. A cancelled operation has not failed: it is info.
func LevelOfOperation(err error) logrus.Level {
	level := LevelOf(err)
	cancelled := errors.Is(err, dataset.ErrCancelled) || errors.Is(err, context.Canceled)
	if level == logrus.InfoLevel && !cancelled {
		return logrus.WarnLevel
	}
	return level
}
