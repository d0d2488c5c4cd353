package dataset

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Kind is a kind of error. It is a sentinel for errors.Is, and has a code that programs can rely on, an HTTP status and
// an exit code. Docker always shows the text of the error itself.
type Kind struct {
	Code  string // stable, in problem details and events
	HTTP  int    // status of the API's answer
	Exit  int    // exit code of the command line: 1 failed, 2 wrong usage
	Title string // a few words, the same for every error of the kind
}

// Error returns the title.
func (k *Kind) Error() string { return k.Title }

// The kinds of errors. Each is a sentinel: test with errors.Is.
var (
	// about the request, before anything was changed
	ErrInvalid     = &Kind{"invalid", http.StatusUnprocessableEntity, 2, "wrong input"}
	ErrUnsupported = &Kind{"unsupported", http.StatusUnprocessableEntity, 1, "the backend cannot do this"}
	ErrNotFound    = &Kind{"not_found", http.StatusNotFound, 1, "no such object"}
	ErrAmbiguous   = &Kind{"ambiguous", http.StatusConflict, 1, "several objects match"}
	ErrExists      = &Kind{"exists", http.StatusConflict, 1, "exists and differs"}
	ErrInUse       = &Kind{"in_use", http.StatusConflict, 1, "in use"}
	ErrProtected   = &Kind{"protected", http.StatusConflict, 1, "protected"}
	ErrConflict    = &Kind{"conflict", http.StatusConflict, 1, "changed meanwhile"}
	ErrStale       = &Kind{"stale", http.StatusConflict, 1, "report of an older epoch, incarnation or operation"}
	ErrForbidden   = &Kind{"forbidden", http.StatusForbidden, 1, "not allowed"}
	ErrRemoved     = &Kind{"removed", http.StatusForbidden, 1, "the node was removed from the cluster"}

	// about the state of the system
	ErrNoSpace     = &Kind{"no_space", http.StatusInsufficientStorage, 1, "no space"}
	ErrOffline     = &Kind{"offline", http.StatusServiceUnavailable, 1, "pool or node is offline"}
	ErrUnavailable = &Kind{"unavailable", http.StatusServiceUnavailable, 1, "control service is unreachable"}
	ErrPending     = &Kind{"pending", http.StatusServiceUnavailable, 1, "continues as an operation"}
	ErrCancelled   = &Kind{"cancelled", http.StatusConflict, 1, "cancelled"}
	ErrCorrupt     = &Kind{"corrupt", http.StatusInternalServerError, 1, "data is damaged or foreign"}
	ErrInternal    = &Kind{"internal", http.StatusInternalServerError, 1, "internal error"}
)

// Kinds returns all kinds, for the translation in HTTP, the command line and the plugin.
func Kinds() []*Kind {
	return []*Kind{
		ErrInvalid, ErrUnsupported, ErrNotFound, ErrAmbiguous, ErrExists, ErrInUse,
		ErrProtected, ErrConflict, ErrStale, ErrForbidden, ErrRemoved, ErrNoSpace, ErrOffline,
		ErrUnavailable, ErrPending, ErrCancelled, ErrCorrupt, ErrInternal,
	}
}

// KindOf returns the kind of the outermost error in err that has one. If none has a kind, it returns ErrInternal. It
// returns nil only if err is nil.
func KindOf(err error) *Kind {
	if err == nil {
		return nil
	}
	var k *Kind
	if errors.As(err, &k) {
		return k
	}
	return ErrInternal
}

// KindByCode returns the kind with a code. If there is none, it returns ErrInternal. It is used to decode an error from
// the wire.
func KindByCode(code string) *Kind {
	for _, k := range Kinds() {
		if k.Code == code {
			return k
		}
	}
	return ErrInternal
}

// OneLine returns the text of err in one line, truncated by Cut. Joined errors have one line each.
func OneLine(err error) string { return Cut(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// MaxLine is the maximum number of bytes of an error that is reported or recorded. Without this limit, an error that
// contains a path could have any length.
const MaxLine = 4 << 10

// Cut truncates a line to MaxLine bytes, without cutting a character. The end of a truncated line says that it was
// truncated.
func Cut(line string) string { return CutTo(line, MaxLine) }

// CutTo is Cut for a limit other than MaxLine. If the limit has no room for the note about the truncation, it leaves
// the note out.
func CutTo(line string, most int) string {
	if len(line) <= most {
		return line
	}
	end := fmt.Sprintf("... (cut off: %d bytes)", len(line))
	if most < len(end) {
		return head(line, max(0, most))
	}
	return head(line, most-len(end)) + end
}

// maxClip is how many bytes of a request or a file an error repeats.
const maxClip = 140

// Clip truncates s, a part of a request or a file, for the text of an error.
func Clip(s string) string {
	if len(s) <= maxClip {
		return s
	}
	return head(s, maxClip-3) + "..."
}

// head returns at most the first n bytes of s. It returns fewer if it would cut a character.
func head(s string, n int) string {
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

type kindError struct {
	kind *Kind
	err  error
}

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// Errorf makes an error of a kind. Its text is only the formatted line (wrap with %w as usual), and errors.Is
// finds the kind.
func Errorf(kind *Kind, format string, args ...any) error {
	return &kindError{kind, fmt.Errorf(format, args...)}
}

// pendingError is an ErrPending for work that continues as an operation.
type pendingError struct {
	error
	op uuid.UUID
}

func (e *pendingError) Unwrap() error { return e.error }

// PendingOn makes an error of the kind ErrPending for work that continues as an operation. ContinuesAs returns the UUID
// of the operation.
func PendingOn(op uuid.UUID, format string, args ...any) error {
	return &pendingError{Errorf(ErrPending, format, args...), op}
}

// ContinuesAs returns the UUID of the operation that continues the work, if err is an ErrPending made by PendingOn.
// Otherwise it returns uuid.Nil.
func ContinuesAs(err error) uuid.UUID {
	var pending *pendingError
	if KindOf(err) != ErrPending || !errors.As(err, &pending) {
		return uuid.Nil
	}
	return pending.op
}
