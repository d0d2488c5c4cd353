package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
)

// A run of restic that outlived the agent gets outlivedTries times a tenth of a second to remove its lock. Then it is
// killed, and has the same time to end.
const (
	outlivedTries = 30
	outlivedTick  = 100 * time.Millisecond
)

// endOutlived ends the runs of restic that read a folder of the backups. The agent that started them was killed.
// Without this, such a run could still store its backup after the repeated operation has looked for the earlier ones:
// the repository would have a backup that nobody expects. Or it could begin to read after the clone was unmounted, and
// store an empty folder.
func endOutlived(dir string) error {
	for try := 0; ; try++ {
		signal := unix.SIGINT
		if try >= outlivedTries {
			signal = unix.SIGKILL
		}
		n, err := signalRestic(dir, signal)
		if n == 0 || err != nil {
			return err
		}
		if try >= 2*outlivedTries {
			return fmt.Errorf("%d processes of restic do not end, and use %s", n, dir)
		}
		<-clock.System{}.After(outlivedTick)
	}
}

// signalRestic sends a signal to the processes of restic whose working directory is dir, and returns their number.
func signalRestic(dir string, signal unix.Signal) (n int, err error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !isResticIn(pid, dir) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return n, fmt.Errorf("process %d: %w", pid, err)
		}
		if isResticIn(pid, dir) { // fd is of the process with this working directory
			n++
			err = unix.PidfdSendSignal(fd, signal, nil, 0)
		}
		if err = errors.Join(err, unix.Close(fd)); err != nil && !errors.Is(err, unix.ESRCH) {
			return n, fmt.Errorf("end restic, process %d: %w", pid, err)
		}
	}
	return n, nil
}

// isResticIn reports whether a process is one of restic, or of nice or ionice, which become restic, with the working
// directory dir. Only root can enter the folders of the backups.
func isResticIn(pid int, dir string) bool {
	at := filepath.Join("/proc", strconv.Itoa(pid))
	cwd, err := os.Readlink(filepath.Join(at, "cwd"))
	if err != nil || strings.TrimSuffix(cwd, " (deleted)") != dir {
		return false
	}
	name, err := os.ReadFile(filepath.Join(at, "comm"))
	text := strings.TrimSpace(string(name))
	return err == nil && slices.Contains([]string{"restic", "nice", "ionice"}, text)
}
