package host

import (
	"fmt"
	"slices"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
)

// Programs runs the programs that profiles, repositories and verifications name: fence commands, programs that print a
// key or a password, and programs that check a restored volume.
type Programs struct {
	run.Runner
	Allowed []string // the programs that may run; if nil, any program that only root can change
}

// Check fails with ErrForbidden unless a program that a profile or a request names may run here as root. args are
// the path of the program and its arguments. Only root may be able to change or replace it, and it must be in Allowed,
// unless Allowed is nil. Check fails with ErrNotFound if there is no such program, and with ErrInvalid if args are
// empty or the path is not absolute.
//
// The program is then run by its path, not by a descriptor. That is as safe as a descriptor, because only root can
// replace the file at the path. A script needs its path: the interpreter opens it again, and a script may use it to
// find files in its folder.
func (p *Programs) Check(args []string) error {
	if len(args) == 0 {
		return dataset.Errorf(dataset.ErrInvalid, "the profile names no fence program")
	}
	if p.Allowed != nil && !slices.Contains(p.Allowed, args[0]) {
		return dataset.Errorf(dataset.ErrForbidden,
			"program %s: not listed in fence_programs of drover.yaml on this host (add it there, if it may run "+
				"here as root)", args[0])
	}
	if err := safefile.CheckProgram(args[0]); err != nil {
		return fmt.Errorf("program %w", err)
	}
	return nil
}
