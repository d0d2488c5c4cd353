package move

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// answers is a peer that gives every request the same answer.
type answers struct {
	frames string // the value of framesHeader
	asked  int
	known  string // the version that the client says it knows
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked++
	a.known = r.Header.Get(framesHeader)
	h := http.Header{}
	if a.frames != "" {
		h.Set(framesHeader, a.frames)
	}
	return &http.Response{StatusCode: http.StatusOK, Header: h, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

// Frames of a later version are refused by their number, at once: it is not a fault of the connection.
func TestLaterVersionOfFrames(t *testing.T) {
	ask := func(a *answers) error {
		c := &Client{HTTP: a, Clock: clock.System{}}
		_, err := c.Snapshots(t.Context(), "https://peer", uuid.New())
		return err
	}
	later := &answers{frames: "2"}
	if err := ask(later); !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("got error %v, want that format 2 is not supported", err)
	}
	if later.asked != 1 || later.known != "1" {
		t.Errorf("the client asked %d times and said that it knows %q, want once and 1", later.asked, later.known)
	}
	for _, version := range []string{"", "1"} {
		if err := ask(&answers{frames: version}); err != nil {
			t.Errorf("version %q: %v", version, err)
		}
	}
}
