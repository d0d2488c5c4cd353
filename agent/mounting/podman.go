package mounting

import (
	"context"
	"time"

	"github.com/droverhq/drover/dataset"
)

// PodmanPatience is how long an Unmount of Podman may take until it is answered, even if unmount(2) has not ended.
// Podman waits 5 seconds for an answer unless it is configured otherwise.
const PodmanPatience = 3 * time.Second

// unmountForPodman unmounts a dataset after Podman's last use of it has ended. It waits until PodmanPatience after the
// Unmount began, and returns no error. If the unmount takes longer or fails, it continues or is repeated in the
// background, and a Mount waits for it.
//
// If an Unmount fails or times out, Podman assumes that it did not happen: it keeps its use count, and gives the next
// container the bare mount point without a Mount. So once the agent has removed Podman's use from its records, the
// Unmount must succeed in time.
func (m *Mounter) unmountForPodman(ctx context.Context, d dataset.Dataset, began time.Duration) {
	late := m.Clock.After(began + PodmanPatience - m.Clock.Steady())
	jb := m.Jobs.Start("unmount/"+d.ID.String(), m.unmountUnused(d))
	select {
	case <-jb.Ended():
		if jb.Result() != nil {
			m.LogOf(ctx, d).WithError(jb.Result()).Warn("podman's last use has ended, and the unmount failed")
		}
	case <-late:
		m.LogOf(ctx, d).Warn("podman's last use has ended, and the unmount continues")
	case <-ctx.Done(): // Podman has closed the connection and does not receive the answer
	}
}
