package remoteserver

import (
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// refusalLogInterval is the minimum time between two log lines about refused secrets: everybody can cause them.
const refusalLogInterval = time.Minute

// refusalLog logs that secrets were refused. Safe for concurrent use.
type refusalLog struct {
	log   logrus.FieldLogger
	clock clock.Clock

	mu    sync.Mutex
	count int           // refused secrets since the last line
	next  time.Duration // when the next line may be logged
}

// add counts a refused secret for a grant, and logs it unless the last line is too young. The line has the address of
// this client, but not the secret. It has no name that cannot be that of a grant: it can be a secret in a wrong place.
func (l *refusalLog) add(grant, address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	now := l.clock.Steady()
	if now < l.next {
		return
	}
	if dataset.CheckGrantName(grant) != nil {
		grant = ""
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	l.log.WithFields(logrus.Fields{"count": l.count, "grant": grant, "from": address}).
		Warn("refused a client with a wrong token for a repository")
	l.count, l.next = 0, now+refusalLogInterval
}
