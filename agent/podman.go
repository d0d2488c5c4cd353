package agent

import (
	"context"
	"time"

	"github.com/droverhq/drover/dataset"
)

// podmanPatience is how long after its start an Unmount of Podman waits for the kernel's unmount.
// Podman waits 5 seconds for an answer unless it is configured otherwise.
const podmanPatience = 3 * time.Second

// unmountForPodman unmounts a dataset whose last use, by Podman, has ended. It waits for that until
// podmanPatience after the Unmount began, and returns no error.
//
// Podman takes an Unmount that fails, or that it gave up waiting for, for one that did not happen. It
// keeps its count, and gives the next container the bare mount point without a Mount. So once its use
// is off the record, Podman must hear of success, and in time. The unmount continues, or is tried
// again, in the background. A Mount waits for it.
func (a *Agent) unmountForPodman(ctx context.Context, d dataset.Dataset, began time.Duration) {
	late := a.Clock.After(began + podmanPatience - a.Clock.Steady())
	jb := a.jobs.start("unmount/"+d.ID.String(), a.unmountUnused(d))
	select {
	case <-jb.done:
		if jb.err != nil {
			a.log(d).WithError(jb.err).Warn("podman's last use has ended, and the unmount failed")
		}
	case <-late:
		a.log(d).Warn("podman's last use has ended, and the unmount goes on")
	case <-ctx.Done(): // Podman has gone: nobody hears the answer
	}
}
