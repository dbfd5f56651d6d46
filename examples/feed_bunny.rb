# Submit a job as a grid site, in Ruby: ruby feed_bunny.rb JOB-ID EXECUTABLE [ARGUMENT ...] < LOGIN-FILE
require "bunny"
require "json"
require "msgpack"
require "securerandom"

site = JSON.parse($stdin.read)
job_id, executable, *arguments = ARGV
message = { op: "job.submit", id: SecureRandom.uuid, job: { id: job_id, executable: executable, arguments: arguments } }

where = site["endpoints"][0]
broker = Bunny.new(host: where["host"], port: where["port"], vhost: site["vhost"],
                   user: site["user"], pass: site["password"], automatically_recover: false).start
channel = broker.create_channel
channel.confirm_select
channel.basic_publish(message.to_msgpack, "vc.up", "#{site["user"]}.submit", user_id: site["user"],
                      message_id: message[:id], content_type: "application/x-msgpack", persistent: true)
channel.wait_for_confirms or abort "the broker refused it"

Timeout.timeout(30) do # its own queue may hold verdicts on what was sent before
  loop do
    delivery, _properties, body = channel.basic_get(site["user"].sub("-", "."), manual_ack: true)
    next sleep(0.05) unless delivery

    verdict = MessagePack.unpack(body)
    channel.ack(delivery.delivery_tag)
    next unless verdict["call"] == message[:id]

    broker.close
    verdict["accepted"] ? puts("accepted #{job_id}") : abort(verdict.to_s)
    exit
  end
end
