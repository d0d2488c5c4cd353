package wire

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Comments, unknown fields and carriage returns of other servers are no events.
func TestReadEvents(t *testing.T) {
	var got []uint64
	err := ReadEvents(strings.NewReader(": hello\n\nretry: 5\n\nid: 1\nevent: message\ndata:{\"id\":1}\n\ndata: {\"id\":2}\n\ndata: {\"id\":3}"), func(e api.Event) error {
		got = append(got, e.ID)
		return nil
	})
	if d := cmp.Diff([]uint64{1, 2}, got); d != "" || err != nil {
		t.Error(err, d)
	}
	for _, bad := range []string{"data: {\n\n", "event: problem\ndata: x\n\n", "data: " + strings.Repeat("x", MaxEventLine) + "\n\n"} {
		if err := ReadEvents(strings.NewReader(bad), func(api.Event) error { return nil }); dataset.KindOf(err) != dataset.ErrInternal {
			t.Error(err)
		}
	}
}

func TestVersionIn(t *testing.T) {
	if got := VersionIn("drover/v1.2 (linux)"); got != "v1.2" {
		t.Error(got)
	}
	if got := VersionIn("curl/8.0"); got != "" {
		t.Error(got)
	}
}
