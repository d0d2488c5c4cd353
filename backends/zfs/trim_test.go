package zfs

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/fakes"
)

// A zpool is trimmed by zpool(8), also by an old version. If no device supports trim, that is not an error.
func TestTrimOfAZpool(t *testing.T) {
	const mute = "cannot trim 'tank': no devices in pool support trim operations"
	for name, c := range map[string]struct {
		waits, plain string // the error messages
		want         error
		ran          int
	}{
		"trimmed":      {"", "", nil, 1},
		"an old zpool": {"invalid option 'w'", "", nil, 2},
		"cannot be":    {mute, mute, errors.ErrUnsupported, 1},
		"old, and not": {"invalid option 'w'", mute, errors.ErrUnsupported, 2},
	} {
		ran := 0
		p := &Pool{fs: poolFilesystem{name: "tank/a"}, tool: tool{fakes.Run(func(_ context.Context,
			cmd run.Command) (run.Result, error) {
			ran++
			complains := c.plain
			if slices.Contains(cmd.Args, "-w") {
				complains = c.waits
			}
			if cmd.Name != "zpool" || cmd.Args[0] != "trim" || cmd.Args[len(cmd.Args)-1] != "tank" {
				t.Errorf("ran %s %q", cmd.Name, cmd.Args)
			}
			if complains != "" {
				return run.Result{}, &run.Error{
					Cmd:      "zpool",
					ExitCode: 1,
					Stderr:   complains,
					Err:      errors.New("exit status 1"),
				}
			}
			return run.Result{}, nil
		})}}
		if _, err := p.Trim(t.Context()); !errors.Is(err, c.want) || ran != c.ran {
			t.Errorf("%s: %v after %d commands, want %v after %d", name, err, ran, c.want, c.ran)
		}
	}
}
