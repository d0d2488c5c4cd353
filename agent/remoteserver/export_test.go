package remoteserver

const (
	MaxRequests = maxRequests
	MaxAge      = maxAge
)
