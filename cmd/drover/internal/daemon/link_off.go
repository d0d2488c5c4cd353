//go:build !steps

package daemon

import "github.com/droverhq/drover/control/api"

// link connects the agent to control by direct calls. A remote agent uses HTTP instead. Over HTTP, a create would spend
// a fifth of its CPU time on JSON.
func link(svc api.Service) (to api.Service, shut func()) { return svc, func() {} }
